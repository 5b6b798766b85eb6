"""Candidates of a source into the parts of a build: checked, embedded and kept while they come in.

Shapes: n pairs of a batch, H/W image, D width.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Floats
from rag_diffusion.progress import Progress
from rag_diffusion.readers.batches import in_batches
from rag_diffusion.readers.checked import Decode, at_size, checked_image, checked_pair
from rag_diffusion.readers.records import Reader, Rejection
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.spread import alone
from rag_diffusion.retrieval.threads import in_order
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.store.originals import Original
from rag_diffusion.store.shard_source import ShardSource
from rag_diffusion.store.shared_folder import same_files
from rag_diffusion.store.staging import (
    PART_BYTES,
    PART_CANDIDATES,
    PART_SECONDS,
    PART_SECONDS_AT_FIRST,
    PART_SHARE,
    Candidate,
    Embedded,
    Staging,
    digest,
)
from rag_diffusion.store.vectors import Vectors
from rag_diffusion.types import Pair

Batches = Iterable[list[Candidate]]

BATCH = 8  # candidates that a worker takes at a time, and a kill loses
_KEPT_AT_A_TIME = 512


@dataclass(frozen=True)
class Ingest:
    """How candidates of one data set become embedded pairs.

    Args:
        facts: name, image size, licence and attribution of the data set.
        encoder: makes the vectors.
        decode: of pictures, see `to_pair`.
        original: gives the original of a pair by its id, for pairs whose image is of another size; those without one
            have their image scaled.
        elsewhere: embeds batches, in their order, on other machines; None embeds them on the cores of this one.
    """

    facts: Manifest
    encoder: PairEncoder
    decode: Decode = checked_image
    original: Callable[[str], Original | None] = lambda pair_id: None
    elsewhere: Callable[[Batches], Iterator[Embedded]] | None = None

    def fill(self, staging: Staging, reader: Reader | Iterable[Candidate]) -> None:
        """Go on with a build, which lies in `staging`, until its `reader` is at its end."""
        self.take(staging, staging.resume(reader))
        while staging.drop_damaged():
            self.take(staging, staging.resume(reader))

    def take(self, staging: Staging, source: Iterator[Candidate]) -> None:
        """Put the rest of a `source` into further parts of a build, which lies in `staging`."""
        waiting = list[Embedded]()
        keeping = _Keeping()
        try:
            with Progress(total=None, desc=f"kb {self.facts.name}", unit="pair", initial=staging.done) as bar:
                batches = in_batches(source, BATCH)
                for batch in self.elsewhere(batches) if self.elsewhere else in_order(self.embedded, batches):
                    bar.update(batch.candidates)
                    waiting.append(batch)
                    candidates = sum(batch.candidates for batch in waiting)
                    size = sum(batch.num_bytes for batch in waiting)
                    if candidates >= PART_CANDIDATES or size >= PART_BYTES or keeping.due:
                        staging.write(waiting)
                        waiting = []
                        keeping.begin()
        finally:
            if waiting:  # also of a source that failed: what was embedded is not embedded again
                staging.write(waiting)

    def embedded(self, candidates: Sequence[Candidate]) -> Embedded:
        """Check and embed a batch of `candidates`."""
        made = [self._made(candidate) for candidate in candidates]
        taken = [result for result in made if not isinstance(result, Rejection)]
        image, text = self._vectors([pair.caption for pair, _, _ in taken], [picture for _, picture, _ in taken])
        return Embedded(
            digest=digest(candidates),
            candidates=len(candidates),
            pairs=[pair for pair, _, _ in taken],
            rejected=[result for result in made if isinstance(result, Rejection)],
            image=image,
            text=text,
            sides=[side for _, _, side in taken],
        )

    def _made(self, candidate: Candidate) -> tuple[Pair, Image.Image, int] | Rejection:
        """The pair, its picture, and the side of its original."""
        if isinstance(candidate, Pair):
            pair, picture = self._sized(candidate)
            return self._kept(pair), picture, 0
        if isinstance(candidate, Rejection):
            return candidate
        facts = self.facts
        made = checked_pair(
            candidate,
            data_set=facts.name,
            size=facts.image_size,
            licence=facts.licence,
            attribution=facts.attribution,
            decode=self.decode,
        )
        return made if isinstance(made, Rejection) else (self._kept(made[0]), made[1], candidate.side)

    def _sized(self, pair: Pair) -> tuple[Pair, Image.Image]:
        picture = Image.open(io.BytesIO(pair.image)).convert("RGB")
        if picture.width == self.facts.image_size:
            return pair, picture
        original = self.original(pair.pair_id)
        content, side = (pair.image, 0) if original is None else (original.read(), original.side)
        return at_size(pair, content, self.facts.image_size, side, self.decode)

    def _kept(self, pair: Pair) -> Pair:
        return pair if self.facts.originals else replace(pair, original=None)

    def _vectors(self, captions: Sequence[str], pictures: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        if not captions:
            return np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.float32)
        pixels = np.stack([np.asarray(picture) for picture in pictures])
        return self.encoder.images(pixels), self.encoder.texts(captions)


@dataclass(frozen=True, kw_only=True)
class EmbedCandidates:
    """Units are batches of candidates, which bring their files along; see `engine.work.Work`.

    Attributes:
        facts: of the data set.
        encoder: its folder, on every machine.
        device: of the encoder, as in params.yaml.
    """

    facts: Manifest
    encoder: Path
    device: str

    def open(self) -> Callable[[list[Candidate]], Embedded]:
        """See `Work.open`.

        Raises:
            ModelError: this machine has no encoder.
            LineageError: it has another one.
        """
        encoder = Encoder(self.encoder, device=self.device)
        same_files(self.encoder, self.facts.encoder_hash, encoder.hash)
        ingest = Ingest(self.facts, encoder)
        return lambda batch: alone(ingest.embedded, batch)


def keep(staging: Staging, stored: ShardSource, vectors: Vectors) -> None:
    """Put a segment that has its vectors into a build as it is.

    Args:
        staging: of the build.
        stored: N pairs, and what was rejected.
        vectors: (N, D) of them.
    """
    none, rejections = np.empty((0, 0), dtype=np.float32), stored.rejected()
    while rejected := list(islice(rejections, _KEPT_AT_A_TIME)):
        kept = Embedded(
            digest=digest(rejected), candidates=len(rejected), pairs=[], rejected=rejected, image=none, text=none
        )
        staging.write([kept])
    source, start = stored.pairs(), 0
    while batch := list(islice(source, _KEPT_AT_A_TIME)):
        rows = slice(start, start + len(batch))
        start += len(batch)
        kept = Embedded(
            digest=digest(batch),
            candidates=len(batch),
            pairs=batch,
            rejected=[],
            image=vectors.image[rows],
            text=vectors.text[rows],
        )
        staging.write([kept])


class _Keeping:
    """When what waits is to be kept: often at first, so that a build that is killed early has lost little."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time."""
        now = time.monotonic()
        return now - self._last >= min(PART_SECONDS, max(PART_SECONDS_AT_FIRST, PART_SHARE * (now - self._start)))

    def begin(self) -> None:
        """Something was kept."""
        self._last = time.monotonic()
