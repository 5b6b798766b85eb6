"""A generation of a data set: what its builder says of it, what is made beside the old one, and the step that swaps."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.config import Config
from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_write, file_hash
from rag_diffusion.knowledge.folders import MADE, PUBLISHED, SEGMENTS, DataSetFolders
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.factories import shards_for
from rag_diffusion.retrieval.index_shards import build_index_files
from rag_diffusion.retrieval.indexes import count_words
from rag_diffusion.retrieval.recall import check_recall
from rag_diffusion.retrieval.short_texts import encoded_short
from rag_diffusion.store.build import describe_files, write_pairs
from rag_diffusion.store.integrity import check_originals
from rag_diffusion.store.manifest import FORMAT, Manifest, originals_hint, rebuild_hint
from rag_diffusion.store.originals import Earlier, Original, Originals
from rag_diffusion.store.pair_set import TABLE, PairColumns
from rag_diffusion.store.segments import Segment, free_folder, link_segment, segments_of, together
from rag_diffusion.store.shard_source import ShardSource, StoredSegments
from rag_diffusion.store.staging import Part, Staging
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from rag_diffusion.types import PRECISIONS

_LOG = logging.getLogger(__name__)


class Generations:
    """Generations of data sets; who writes one holds its lock.

    Args:
        folders: where they lie.
        config: of params.yaml.
        encoder: makes their vectors.
    """

    def __init__(self, folders: DataSetFolders, config: Config, encoder: PairEncoder) -> None:
        self.folders, self.config, self.encoder = folders, config, encoder

    def facts(
        self, name: str, form: str, *, origin: str = "", licence: str, attribution: str, originals: bool
    ) -> Manifest:
        """What is known of a data set before it is built.

        Args:
            name: of the data set.
            form: of its reader, see `Manifest`.
            origin: of what its reader reads, see `Manifest`.
            licence: of pairs that name none.
            attribution: of pairs that name none.
            originals: whether the files that pairs are made of are kept.
        """
        return Manifest(
            name=name,
            form=form,
            origin=origin,
            licence=licence,
            attribution=attribution,
            image_size=self.config.corpus.image_size,
            encoder_hash=self.encoder.hash,
            originals=originals,
        )

    def staging(self, facts: Manifest) -> Staging:
        """The build of a data set; the one that was stopped, if it was of the same `facts`."""
        names = ("name", "form", "origin", "licence", "attribution", "image_size", "encoder_hash", "originals")
        return Staging(
            self.folders.building(facts.name), {key: getattr(facts, key) for key in names} | {"format": FORMAT}
        )

    def publish(
        self,
        facts: Manifest,
        staging: Staging,
        old: Manifest | None,
        *,
        keeps_originals: bool = False,
        beside: Sequence[Segment] = (),
        kept: Sequence[Segment] = (),
    ) -> Manifest:
        """Write a generation beside the old one; the manifest makes it hold, in one step.

        Args:
            facts: of the data set.
            staging: its build.
            old: the generation before.
            keeps_originals: whether originals of the old generation are those of pairs with the same ids.
            beside: segments of the old generation that stay as they are; the build takes the place of the others.
            kept: segments whose vectors are in the build as they were.
        """
        made = staging.folder / MADE
        shutil.rmtree(made, ignore_errors=True)
        earlier = list[Earlier]()
        if old is not None and keeps_originals and facts.originals:
            gone = [one for one in self.segments(old) if one.folder not in {stays.folder for stays in beside}]
            earlier = self.earlier([(self.folder(old, one), one.manifest) for one in gone])
        segment = self.segment(made, staging.parts, facts, earlier, kept)
        return self.swap(facts, made, segment, old, beside)

    def segment(
        self,
        folder: Path,
        parts: list[Part],
        facts: Manifest,
        earlier: Sequence[Earlier],
        kept: Sequence[Segment] = (),
    ) -> Manifest:
        """Make a segment of the parts of a build.

        Args:
            folder: of the segment, which is made.
            parts: of the build.
            facts: of the data set.
            earlier: originals of pairs that were there before.
            kept: segments whose vectors the parts have as they were.

        Returns:
            Its manifest.

        Raises:
            ConfigError: its index, or its vectors in `index.precision`, recall less than `index.min_recall`.
            DataError: there is no pair.
        """
        folder.mkdir(parents=True)
        manifest = write_pairs(folder, parts, facts, earlier)
        rows, remedy = manifest.num_pairs, "add the data set again"
        table = PairColumns.open(folder / TABLE, rows, remedy).table
        captions = table.column("caption")
        count_words(folder, captions)
        fewer_bits = folder.with_name(f"{folder.name}-{VECTORS_FILE}")  # beside the segment until both were compared
        report = build_index_files(
            folder,
            self.config,
            folder / VECTORS_FILE,
            rows,
            kept=fewer_bits,
            shards=shards_for(self.config.index, rows),
            remedy=remedy,
            short=encoded_short(partial(self._texts, facts), captions, table.column("title")),
            earlier=[one.manifest.recall for one in kept],
        )
        check_recall(report)
        if self.config.index.precision != PRECISIONS[0]:
            os.replace(fewer_bits, folder / VECTORS_FILE)
        return replace(manifest, recall=report, files=describe_files(folder, manifest.files))

    def _texts(self, facts: Manifest, texts: Sequence[str]) -> Floats:
        """(Q, D) vectors of Q texts; none where the pairs' are of another encoder, as of segments that are merged."""
        try:
            same = self.encoder.hash == facts.encoder_hash
        except ModelError:
            same = False
        if same:
            return self.encoder.texts(texts)
        _LOG.warning("index of %s: tuned by captions alone, as the encoder of its vectors is not here", facts.name)
        return np.empty((0, 0), dtype=np.float32)

    def swap(
        self, facts: Manifest, made: Path, segment: Manifest, old: Manifest | None, beside: Sequence[Segment]
    ) -> Manifest:
        """Put a finished segment, and what stays, in the place of the old generation.

        Args:
            facts: of the data set.
            made: the folder of the segment, in a scratch folder that goes.
            segment: its manifest.
            old: the generation before.
            beside: segments of it that stay.

        Returns:
            The manifest that holds then.
        """
        name, number = facts.name, old.generation + 1 if old is not None else 1
        new, whole = Segment("", segment), made
        if beside:
            assert old is not None
            whole = made.with_name(f"{MADE}-whole")
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir()
            beside = self._shared(old, beside, whole)
            new = Segment(free_folder([*beside, *self.segments(old)]), segment)
            os.replace(made, whole / new.folder)
        manifest = replace(together(facts, [*beside, new]), generation=number)
        same = old is not None and old.hash == manifest.hash
        added = old.added if old is not None and same else datetime.now(UTC).isoformat(timespec="seconds")
        manifest = replace(manifest, added=added)
        folder = self.folders.generation(name, number)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(whole, folder)
        if made.parent == self.folders.building(name):
            atomic_write(made.parent / PUBLISHED, str(number))
        manifest.write(self.folders.manifest(name))
        shutil.rmtree(made.parent, ignore_errors=True)
        shutil.rmtree(self.folders.cache(name), ignore_errors=True)  # of a remote one that was here
        if old is not None:
            shutil.rmtree(self.folders.generation(name, old.generation), ignore_errors=True)
            self.folders.drop_segments(name, number)
        return manifest

    def _shared(self, old: Manifest, beside: Sequence[Segment], whole: Path) -> list[Segment]:
        """Have segments of a generation in the `whole` of the next one: one link each, however many files they are."""
        shared = list[Segment]()
        for one in beside:
            folder = one.folder or free_folder(self.segments(old))
            source, place = self.folder(old, one), self.folders.segment(old.name, folder)
            if not one.folder or not source.is_symlink():  # it lies there as it was written
                shutil.rmtree(place, ignore_errors=True)  # of a writer that was killed
                link_segment(source, place, one.manifest)
            try:
                (whole / folder).symlink_to(Path("..", SEGMENTS, folder), target_is_directory=True)
            except OSError:  # of a disk or a user without symbolic links
                link_segment(source, whole / folder, one.manifest)
            shared.append(replace(one, folder=folder))
        return shared

    def present(self, name: str) -> Manifest | None:
        """The manifest of the data set `name`; None where there is none.

        Raises:
            DataError, LineageError: as `Manifest.read`.
        """
        path = self.folders.manifest(name)
        return Manifest.read(path) if path.exists() else None

    def segments(self, manifest: Manifest) -> list[Segment]:
        """See `segments_of`, of the `manifest`."""
        return segments_of(manifest)

    def folder(self, manifest: Manifest, segment: Segment) -> Path:
        """Where a `segment` of the data set of a `manifest` lies."""
        return self.folders.generation(manifest.name, manifest.generation) / segment.folder

    def stored(self, manifest: Manifest) -> StoredSegments:
        """The data set of a `manifest` from its shards alone."""
        return StoredSegments([self.source(manifest, segment) for segment in self.segments(manifest)])

    def source(self, manifest: Manifest, segment: Segment) -> ShardSource:
        """A `segment` of the data set of a `manifest` from its shards alone."""
        return ShardSource(self.folder(manifest, segment), segment.manifest)

    def vectors(self, manifest: Manifest, segment: Segment) -> Vectors:
        """Vectors of a `segment` of the data set of a `manifest`, mapped.

        Raises:
            DataError: their file is missing or damaged.
        """
        path = self.folder(manifest, segment) / VECTORS_FILE
        return Vectors.open(path, segment.manifest.num_pairs, remedy=rebuild_hint(manifest.name))

    def originals(self, manifest: Manifest) -> Callable[[str], Original | None]:
        """What gives the original of a pair of the `manifest` by its id; it gives None where none is kept.

        Raises:
            DataError: the table of originals is missing or damaged.
        """
        rows = dict[str, tuple[Originals, int]]()
        for segment in self.segments(manifest):
            own = segment.manifest
            if own.num_originals:
                found = Originals(self.folder(manifest, segment), own.num_pairs, remedy=originals_hint(own.name))
                ids = self.source(manifest, segment).pair_ids().to_pylist()
                rows |= {pair_id: (found, row) for row, pair_id in enumerate(ids)}

        def original(pair_id: str) -> Original | None:
            place = rows.get(pair_id)
            return None if place is None else place[0].open(place[1])

        return original

    def check_originals(self, manifest: Manifest, *, whole: bool = False) -> None:
        """See `store.integrity.check_originals`, of the `manifest`; `whole` reads every byte."""
        check_originals(self.folders.generation(manifest.name, manifest.generation), manifest, whole=whole)

    def earlier(self, segments: Sequence[tuple[Path, Manifest]]) -> list[Earlier]:
        """Originals of those of some `segments`, each a folder and its manifest, that have any.

        Raises:
            DataError: a table of originals is missing or damaged.
        """
        found = list[Earlier]()
        for folder, manifest in segments:
            if manifest.num_originals:
                table = Originals(folder, manifest.num_pairs, remedy=originals_hint(manifest.name)).table
                found.append(Earlier(folder, ShardSource(folder, manifest).pair_ids(), table, manifest.files))
        return found

    def intact(self, manifest: Manifest, name: str) -> bool:
        """Whether the file `name` of every segment is as the `manifest` tells."""
        paths = [(self.folder(manifest, segment) / name, segment) for segment in self.segments(manifest)]
        return all(
            path.is_file() and file_hash(path) == segment.manifest.files[name]["sha256"] for path, segment in paths
        )

    def as_fine(self, manifest: Manifest) -> bool:
        """Whether no vector of the data set of a `manifest` was ever kept in fewer bits than `index.precision` asks."""
        asked = PRECISIONS.index(self.config.index.precision)
        return all(PRECISIONS.index(segment.manifest.coarsest) <= asked for segment in self.segments(manifest))
