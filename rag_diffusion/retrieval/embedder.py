"""Images and captions into unit vectors of the dual encoder's space, in batches.

The embedded encoder's trunks are frozen, so their features depend on pixels and captions alone:
`align` keeps them in a scratch folder under a content hash, and `embed` takes them from there.

Shapes: N items, H/W image, T trunk width, D width of the shared space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import Tensor

from rag_diffusion.arrays import Floats, Pixels
from rag_diffusion.files import atomic_write
from rag_diffusion.models.dual_encoder import DualEncoder
from rag_diffusion.progress import Progress
from rag_diffusion.retrieval.threads import side_by_side

IMAGE_BATCH = 16
TEXT_BATCH = 64
KEPT_FILES = 8  # of trunk features: images and captions of two splits, of this corpus and the last

Part = TypeVar("Part")


class Embedder:
    """Encodes images and texts with a dual encoder.

    Args:
        encoder: embedded or published.
        scratch: folder that keeps trunk features of the embedded encoder; None keeps none.
        device: torch device of the encoder.
    """

    def __init__(self, encoder: DualEncoder, *, scratch: Path | None = None, device: str = "cpu") -> None:
        self.encoder = encoder
        self._scratch = scratch
        self._device = device
        encoder.model.to(device)
        if encoder.embedded:
            encoder.model.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def images(self, pixels: Pixels) -> Floats:
        """Unit vectors of images: (N, H, W, 3) uint8 -> (N, D) float32."""
        if self.encoder.embedded:
            with torch.inference_mode():
                return _unit(self.encoder.image_head(self.image_features(pixels)))
        return _unit(self._run_images(pixels, self.encoder.model.encode_image))  # type: ignore[arg-type]

    def texts(self, texts: Sequence[str], *, keep: bool = True) -> Floats:
        """Unit vectors: N texts -> (N, D) float32; `keep` lets the scratch keep features."""
        if self.encoder.embedded:
            with torch.inference_mode():
                return _unit(self.encoder.text_head(self.text_features(texts, keep=keep)))
        return _unit(self._run_texts(texts, self.encoder.model.encode_text))  # type: ignore[arg-type]

    def image_features(self, pixels: Pixels) -> Tensor:
        """Image trunk features of the embedded encoder: (N, H, W, 3) uint8 -> (N, T)."""
        key = _digest(repr(self.encoder.preprocess).encode(), str(pixels.shape).encode(), pixels.tobytes())
        return self._kept(f"image-{key}", lambda: self._run_images(pixels, self.encoder.image_trunk))

    def text_features(self, texts: Sequence[str], *, keep: bool = True) -> Tensor:
        """Text trunk features of the embedded encoder: N strings -> (N, T)."""
        if not keep:
            return self._run_texts(texts, self.encoder.text_trunk)
        key = _digest(*(text.encode() + b"\0" for text in texts))
        return self._kept(f"text-{key}", lambda: self._run_texts(texts, self.encoder.text_trunk))

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if self._scratch is None:
            return compute()
        path = self._scratch / f"{name}.safetensors"
        if path.is_file():
            kept: Tensor = load_file(path)["features"]
            return kept
        features = compute()
        atomic_write(path, save({"features": features.numpy()}))
        kept_files = sorted(self._scratch.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in kept_files[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
        return features

    def _run_images(self, pixels: Pixels, run: Callable[[Tensor], Tensor]) -> Tensor:
        def encode(part: Pixels) -> Tensor:
            images = [self.encoder.preprocess(Image.fromarray(image)) for image in part]
            batch = torch.stack(images).to(self._device, memory_format=torch.channels_last)
            with torch.inference_mode():
                return run(batch).float().cpu()

        parts = [pixels[start : start + IMAGE_BATCH] for start in range(0, len(pixels), IMAGE_BATCH)]
        return self._run(encode, parts, total=len(pixels), desc="encode images", unit="image")

    def _run_texts(self, texts: Sequence[str], run: Callable[[Tensor], Tensor]) -> Tensor:
        """Each distinct text once, short ones together, so that little padding is computed."""

        def encode(tokens: Tensor) -> Tensor:
            with torch.inference_mode():
                return run(tokens.to(self._device)).float().cpu()

        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        parts = [
            self._without_padding(self.encoder.tokenize(distinct[start : start + TEXT_BATCH]))
            for start in range(0, len(distinct), TEXT_BATCH)  # here: tokenizers dislike threads
        ]
        found = self._run(encode, parts, total=len(distinct), desc="encode captions", unit="caption")
        place = {text: row for row, text in enumerate(distinct)}
        return found[[place[text] for text in texts]]

    def _run(
        self,
        encode: Callable[[Part], Tensor],
        parts: Sequence[Part],
        *,
        total: int,
        desc: str,
        unit: str,
    ) -> Tensor:
        found = []
        workers = None if self._device == "cpu" else 1
        with Progress(total=total, desc=desc, unit=unit) as bar:
            for features in side_by_side(encode, parts, workers=workers):
                found.append(features)
                bar.update(len(features))
        return torch.cat(found)

    def _without_padding(self, tokens: Tensor) -> Tensor:
        pad = self.encoder.pad_token
        if pad is None:
            return tokens
        return tokens[:, : int((tokens != pad).sum(dim=1).max())]


def _unit(vectors: Tensor) -> Floats:
    return torch.nn.functional.normalize(vectors.float().cpu(), dim=-1).numpy()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:24]
