"""Images and captions into vectors while they come in: decoding, preparing and both towers, one batch a core.

Where a worker decodes its own batch, every core is busy whichever of decoding and embedding is the slower one.

Shapes: n pairs of a batch, H/W image, D width of the shared space.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize, ToTensor

from rag_diffusion.arrays import Floats, Ints, Pixels
from rag_diffusion.models.dual_encoder import DualEncoder, load_dual_encoder
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.retrieval.threads import one_thread_per_operation

IMAGE_BATCH, TEXT_BATCH = 16, 8  # what one core does fastest
_AHEAD = 2  # batches that wait for a worker

Batch = TypeVar("Batch")
Found = TypeVar("Found")


class PairEncoder(Protocol):
    """Images and captions into unit vectors of one space; called from several threads."""

    @property
    def hash(self) -> str:
        """Identity of the weights."""
        ...

    def images(self, pixels: Pixels) -> Floats:
        """(n, H, W, 3) uint8 -> (n, D)."""
        ...

    def texts(self, texts: Sequence[str]) -> Floats:
        """N texts -> (n, D)."""
        ...


class StreamEncoder(EncoderFolder):
    """The dual encoder of a folder, loaded at the first batch; keeps nothing of what it sees.

    Args:
        folder: data/encoder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._loading, self._tokenizing = Lock(), Lock()

    def images(self, pixels: Pixels) -> Floats:
        """See `PairEncoder`."""
        return np.concatenate([self.image_vectors(batch) for batch in self.image_batches(pixels)])

    def texts(self, texts: Sequence[str]) -> Floats:
        """See `PairEncoder`; each distinct text once."""
        distinct = sorted(set(texts))
        found: Floats | None = None
        for rows, tokens in self.token_batches(distinct):
            vectors = self.text_vectors(tokens)
            found = np.empty((len(distinct), vectors.shape[1]), dtype=np.float32) if found is None else found
            found[rows] = vectors
        place = {text: row for row, text in enumerate(distinct)}
        assert found is not None
        return found[[place[text] for text in texts]]

    def image_batches(self, pixels: Pixels) -> list[Tensor]:
        """(n, H, W, 3) uint8 as batches that the image tower takes."""
        prepare = _prepared(self.encoder.preprocess)
        return [prepare(pixels[start : start + IMAGE_BATCH]) for start in range(0, len(pixels), IMAGE_BATCH)]

    def token_batches(self, texts: Sequence[str]) -> list[tuple[Ints, Tensor]]:
        """Texts as batches that the text tower takes, short ones together, so that little padding is computed.

        Returns:
            The places of a batch's texts, and their tokens.
        """
        with self._tokenizing:  # tokenizers dislike threads
            tokens = self.encoder.tokenize(texts)
        pad = self.encoder.pad_token
        lengths = np.full(len(texts), tokens.shape[1]) if pad is None else (tokens != pad).sum(dim=1).numpy()
        order = np.argsort(lengths, kind="stable")
        parts = [order[start : start + TEXT_BATCH] for start in range(0, len(order), TEXT_BATCH)]
        return [(rows, tokens[rows][:, : int(lengths[rows].max())]) for rows in parts]

    def image_vectors(self, batch: Tensor) -> Floats:
        """The image tower alone: (n, 3, H, W) -> (n, D)."""
        encoder = self.encoder
        with torch.inference_mode():
            if encoder.embedded:
                return _unit(encoder.image_head(encoder.image_trunk(batch)))
            return _unit(encoder.model.encode_image(batch))  # type: ignore[operator]

    def text_vectors(self, tokens: Tensor) -> Floats:
        """The text tower alone: (n, L) -> (n, D)."""
        encoder = self.encoder
        with torch.inference_mode():
            if encoder.embedded:
                return _unit(encoder.text_head(encoder.text_trunk(tokens)))
            return _unit(encoder.model.encode_text(tokens))  # type: ignore[operator]

    @property
    def encoder(self) -> DualEncoder:
        """The encoder itself."""
        with self._loading:
            return self._loaded

    @cached_property
    def _loaded(self) -> DualEncoder:
        encoder = load_dual_encoder(self._folder)
        if encoder.embedded:
            encoder.model.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        return encoder


def in_order(run: Callable[[Batch], Found], batches: Iterable[Batch], *, workers: int | None = None) -> Iterator[Found]:
    """Results of `run` in the order of `batches`, which are read only a little ahead of the workers.

    Args:
        run: works on one batch; called from several threads.
        batches: whatever `run` takes; read in the caller's thread. If they end in an error, the results of those
            before it come first.
        workers: batches at a time; as many as this process may use cores where None.
    """
    count = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pending, trouble = deque[Future[Found]](), list[Exception]()
    source = _until_an_error(batches, trouble)
    with one_thread_per_operation(), ThreadPoolExecutor(count) as pool:
        try:
            pending.extend(pool.submit(run, batch) for batch in islice(source, count + _AHEAD))
            while pending:
                found = pending.popleft().result()
                pending.extend(pool.submit(run, batch) for batch in islice(source, 1))
                yield found
        finally:
            for future in pending:
                future.cancel()
    if trouble:
        raise trouble[0]


def _until_an_error(batches: Iterable[Batch], trouble: list[Exception]) -> Iterator[Batch]:
    try:
        yield from batches
    except Exception as error:
        trouble.append(error)


def _prepared(preprocess: Callable[[Image.Image], Tensor]) -> Callable[[Pixels], Tensor]:
    """What prepares a batch: image by image up to its pixels, then the arithmetic for all of them at once."""
    steps = getattr(preprocess, "transforms", [])
    if len(steps) < 2 or not (isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)):
        return lambda pixels: torch.stack([preprocess(Image.fromarray(image)) for image in pixels]).to(
            memory_format=torch.channels_last
        )
    mean, std = (torch.tensor(getattr(steps[-1], name)).view(1, 3, 1, 1) for name in ("mean", "std"))

    def prepare(pixels: Pixels) -> Tensor:
        shown = []
        for image in pixels:
            picture = Image.fromarray(image)
            for step in steps[:-2]:
                picture = step(picture)
            shown.append(np.asarray(picture))
        batch = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)  # rows of pixels: channels last in memory
        return batch.float().div_(255).sub_(mean).div_(std)

    return prepare


def _unit(vectors: Tensor) -> Floats:
    found: Floats = torch.nn.functional.normalize(vectors.float(), dim=-1).numpy()
    return found
