"""Images and captions into unit vectors of the dual encoder's space: for the pipeline, for queries, and for pairs that
are added while they come in.

Many batches go to all cores at once. Where a caller spreads its own batches with `in_order`, as `kb add` does, each
of its workers decodes, prepares and encodes by itself, so every core is busy whichever of them is the slower one.

The embedded encoder's trunks are frozen, so their features depend on pixels and captions alone: with a scratch folder
they are kept there under a content hash; `align` leaves them, and `embed` takes them from there.

Shapes: N items, n of a batch, H/W image, L text tokens, T trunk width, D width of the shared space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import Normalize, ToTensor

from rag_diffusion.arrays import Floats, Ints, Pixels
from rag_diffusion.device import choose_device
from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_write
from rag_diffusion.models.dual_encoder import DualEncoder, load_dual_encoder
from rag_diffusion.progress import Progress
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.retrieval.threads import in_a_worker, in_order, one_thread_per_operation

IMAGE_BATCH, TEXT_BATCH = 16, 8  # what one core does fastest
GPU_BATCH = 64
KEPT_FILES = 8  # of trunk features: images and captions of two splits, of this corpus and the last
TEXTS_AT_ONCE = 1024  # tokenized together

Batch = TypeVar("Batch")
Number = TypeVar("Number", bound=np.generic)


class Encoder:
    """A dual encoder, embedded or published; safe to call from several threads. A row does not depend on its batch.

    Args:
        source: the folder that `align` wrote, loaded at the first batch, or an encoder in memory.
        device: where the towers compute: `auto`, `cpu`, `cuda`, or a torch device. Results are on the CPU.
        scratch: folder that keeps trunk features of the embedded encoder; None keeps none.
    """

    def __init__(
        self, source: Path | DualEncoder, *, device: str | torch.device = "auto", scratch: Path | None = None
    ) -> None:
        self._source, self._wanted, self._scratch = source, device, scratch
        self._folder = EncoderFolder(source) if isinstance(source, Path) else None
        self._loading, self._tokenizing = Lock(), Lock()

    @property
    def hash(self) -> str:
        """Of the folder; it loads nothing.

        Raises:
            ModelError: there is no folder.
        """
        if self._folder is None:
            raise ModelError("encoder: expected one that lies in a folder, got one in memory; save it, then load it")
        return self._folder.hash

    @property
    def encoder(self) -> DualEncoder:
        """The encoder itself, on its device."""
        with self._loading:
            return self._loaded

    @cached_property
    def device(self) -> torch.device:
        """Where the towers compute."""
        return self._wanted if isinstance(self._wanted, torch.device) else choose_device(self._wanted)

    def images(self, pixels: Pixels) -> Floats:
        """Unit vectors of images: `pixels` (N, H, W, 3) uint8 -> (N, D) float32."""
        encoder = self.encoder
        if encoder.embedded:
            return self._unit(self.image_features(pixels), encoder.image_head)
        return self._unit(self._run_images(pixels, encoder.model.encode_image))  # type: ignore[arg-type]

    def texts(self, texts: Sequence[str]) -> Floats:
        """Unit vectors of N `texts`: (N, D) float32; each distinct text is encoded once."""
        encoder = self.encoder
        if encoder.embedded:
            return self._unit(self.text_features(texts), encoder.text_head)
        return self._unit(self._run_texts(texts, encoder.model.encode_text))  # type: ignore[arg-type]

    def image_features(self, pixels: Pixels) -> Tensor:
        """Image trunk features of the embedded encoder: `pixels` (N, H, W, 3) uint8 -> (N, T)."""
        content = (
            repr(self.encoder.preprocess).encode(),
            str(pixels.shape).encode(),
            np.ascontiguousarray(pixels).data,
        )
        return self._kept("image", content, lambda: self._run_images(pixels, self.encoder.image_trunk))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(N, T) text trunk features of the embedded encoder of N `texts`."""
        content = (text.encode() + b"\0" for text in texts)
        return self._kept("text", content, lambda: self._run_texts(texts, self.encoder.text_trunk))

    def prepared(self, pixels: Pixels) -> Tensor:
        """Images as the image tower takes them, on its device: `pixels` (n, H, W, 3) uint8 -> (n, 3, S, S)."""
        return _prepared(self.encoder.preprocess, pixels).to(self.device, memory_format=torch.channels_last)

    def token_batches(self, texts: Sequence[str]) -> Iterator[tuple[Ints, Tensor]]:
        """N `texts` as batches that the text tower takes, short ones together, so that little padding is computed.

        Yields:
            Which of the texts a batch holds, and their tokens (n, L).
        """
        for rows in _batches(by_length(texts), TEXTS_AT_ONCE):
            with self._tokenizing:  # tokenizers dislike threads
                tokens = self.encoder.tokenize([texts[row] for row in rows])
            pad = self.encoder.pad_token
            lengths = np.full(len(rows), tokens.shape[1]) if pad is None else (tokens != pad).sum(dim=1).numpy()
            for part in _batches(np.argsort(lengths, kind="stable"), self._batch_of(TEXT_BATCH)):
                yield rows[part], tokens[part][:, : int(lengths[part].max())]

    def _run_images(self, pixels: Pixels, tower: Callable[[Tensor], Tensor]) -> Tensor:
        batches = _batches(pixels, self._batch_of(IMAGE_BATCH))
        features = self._run(lambda part: tower(self.prepared(part)), batches, total=len(pixels), what="image")
        return torch.cat(features)

    def _run_texts(self, texts: Sequence[str], tower: Callable[[Tensor], Tensor]) -> Tensor:
        distinct, order = sorted(set(texts)), list[Ints]()

        def tokens() -> Iterator[Tensor]:
            for rows, batch in self.token_batches(distinct):
                order.append(rows)
                yield batch

        features = self._run(lambda batch: tower(batch.to(self.device)), tokens(), total=len(distinct), what="caption")
        place = {distinct[row]: number for number, row in enumerate(np.concatenate(order))}
        return torch.cat(features)[[place[text] for text in texts]]

    def _run(
        self, encode: Callable[[Batch], Tensor], batches: Iterator[Batch], *, total: int, what: str
    ) -> list[Tensor]:
        """What a tower makes of every batch, on the CPU; on all cores where there are several batches."""

        def run(batch: Batch) -> Tensor:
            with torch.inference_mode():
                return encode(batch).float().cpu()

        first, second = next(batches), next(batches, None)
        if second is None:
            with one_thread_per_operation():
                return [run(first)]
        batches, outputs = chain((first, second), batches), list[Tensor]()
        if in_a_worker():
            return [run(batch) for batch in batches]
        with Progress(total=total, desc=f"encode {what}s", unit=what) as bar:
            for features in in_order(run, batches):
                outputs.append(features)
                bar.update(len(features))
        return outputs

    def _kept(self, kind: str, content: Iterable[bytes | memoryview], compute: Callable[[], Tensor]) -> Tensor:
        """Features out of the scratch folder; made and kept there where it has none of this content."""
        if self._scratch is None:
            return compute()
        digest = hashlib.sha256()
        for part in content:
            digest.update(part)
        path = self._scratch / f"{kind}-{digest.hexdigest()[:24]}.safetensors"
        if path.is_file():
            kept: Tensor = load_file(path)["features"]
            return kept
        features = compute()
        atomic_write(path, save({"features": features.numpy()}))
        kept_files = sorted(self._scratch.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in kept_files[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
        return features

    def _unit(self, features: Tensor, head: nn.Linear | None = None) -> Floats:
        with torch.inference_mode():
            vectors = features if head is None else head(features.to(self.device)).float().cpu()
            unit: Floats = nn.functional.normalize(vectors, dim=-1).numpy()
            return unit

    def _batch_of(self, on_a_core: int) -> int:
        return on_a_core if self.device.type == "cpu" else GPU_BATCH

    @cached_property
    def _loaded(self) -> DualEncoder:
        encoder = load_dual_encoder(self._source) if isinstance(self._source, Path) else self._source
        encoder.model.to(self.device)
        if encoder.embedded:
            encoder.model.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        return encoder


def by_length(texts: Sequence[str]) -> Ints:
    """(N,) numbers of N `texts`, short ones first."""
    return np.asarray(sorted(range(len(texts)), key=lambda row: len(texts[row])), dtype=np.int64)


def _batches(rows: NDArray[Number], size: int) -> Iterator[NDArray[Number]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _prepared(preprocess: Callable[[Image.Image], Tensor], pixels: Pixels) -> Tensor:
    """A batch of images image by image up to their pixels, then the arithmetic for all of them at once."""
    steps = getattr(preprocess, "transforms", [])
    if len(steps) < 2 or not (isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)):
        return torch.stack([preprocess(Image.fromarray(image)) for image in pixels])
    prepared = []
    for image in pixels:
        picture = Image.fromarray(image)
        for step in steps[:-2]:
            picture = step(picture)
        prepared.append(np.asarray(picture))
    mean, std = (torch.tensor(getattr(steps[-1], name)).view(1, 3, 1, 1) for name in ("mean", "std"))
    batch = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2)  # rows of pixels: channels last in memory
    return batch.float().div_(255).sub_(mean).div_(std)
