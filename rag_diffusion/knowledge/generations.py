"""A generation of a data set: what its builder says of it, what is made beside the old one, and the step that swaps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from rag_diffusion.config import Config
from rag_diffusion.files import atomic_write, file_hash
from rag_diffusion.knowledge.folders import MADE, PUBLISHED, DataSetFolders
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.indexes import build_indexes, count_words
from rag_diffusion.retrieval.recall import check_recall
from rag_diffusion.store.build import describe_files, write_pairs
from rag_diffusion.store.integrity import check_originals
from rag_diffusion.store.manifest import FORMAT, Manifest, originals_hint, rebuild_hint
from rag_diffusion.store.originals import Earlier, Original, Originals
from rag_diffusion.store.pair_set import TABLE, PairColumns
from rag_diffusion.store.shard_source import ShardSource
from rag_diffusion.store.staging import Staging
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors


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
        self, facts: Manifest, staging: Staging, old: Manifest | None, *, keeps_originals: bool = False
    ) -> Manifest:
        """Write a generation beside the old one; the manifest makes it hold, in one step.

        Args:
            facts: of the data set.
            staging: its build.
            old: the generation before.
            keeps_originals: whether originals of the old generation are those of pairs with the same ids.
        """
        name = facts.name
        facts = replace(facts, generation=old.generation + 1 if old is not None else 1)
        made, folder = staging.folder / MADE, self.folders.generation(name, facts.generation)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        earlier = self._earlier(old) if old is not None and keeps_originals and facts.originals else None
        manifest = write_pairs(made, staging.parts, facts, earlier)
        rows, remedy = manifest.num_pairs, "add the data set again"
        count_words(made, PairColumns.open(made / TABLE, rows, remedy).table.column("caption"))
        report = build_indexes(made, Vectors.open(made / VECTORS_FILE, rows, remedy=remedy), self.config.index)
        check_recall(report)
        same = old is not None and old.hash == manifest.hash
        added = old.added if old is not None and same else datetime.now(UTC).isoformat(timespec="seconds")
        manifest = replace(manifest, recall=report, files=describe_files(made, manifest.files), added=added)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, folder)
        atomic_write(staging.folder / PUBLISHED, str(facts.generation))
        manifest.write(self.folders.manifest(name))
        shutil.rmtree(self.folders.building(name), ignore_errors=True)
        shutil.rmtree(self.folders.cache(name), ignore_errors=True)  # of a remote one that was here
        if old is not None:
            shutil.rmtree(self.folders.generation(name, old.generation), ignore_errors=True)
        return manifest

    def present(self, name: str) -> Manifest | None:
        """The manifest of the data set `name`; None where there is none.

        Raises:
            DataError, LineageError: as `Manifest.read`.
        """
        path = self.folders.manifest(name)
        return Manifest.read(path) if path.exists() else None

    def stored(self, manifest: Manifest) -> ShardSource:
        """The data set of a `manifest` from its shards alone."""
        return ShardSource(self.folders.generation(manifest.name, manifest.generation), manifest)

    def vectors(self, manifest: Manifest) -> Vectors:
        """Vectors of the data set of a `manifest`, mapped.

        Raises:
            DataError: their file is missing or damaged.
        """
        path = self.folders.generation(manifest.name, manifest.generation) / VECTORS_FILE
        return Vectors.open(path, manifest.num_pairs, remedy=rebuild_hint(manifest.name))

    def originals(self, manifest: Manifest) -> Callable[[str], Original | None]:
        """What gives the original of a pair of the `manifest` by its id; it gives None where none is kept.

        Raises:
            DataError: the table of originals is missing or damaged.
        """
        if not manifest.num_originals:
            return lambda pair_id: None
        rows = {pair_id: row for row, pair_id in enumerate(self.stored(manifest).pair_ids().to_pylist())}
        folder = self.folders.generation(manifest.name, manifest.generation)
        found = Originals(folder, manifest.num_pairs, remedy=originals_hint(manifest.name))
        return lambda pair_id: found.open(rows[pair_id])

    def check_originals(self, manifest: Manifest, *, whole: bool = False) -> None:
        """See `store.integrity.check_originals`, of the `manifest`; `whole` reads every byte."""
        check_originals(self.folders.generation(manifest.name, manifest.generation), manifest, whole=whole)

    def _earlier(self, manifest: Manifest) -> Earlier | None:
        if not manifest.num_originals:
            return None
        folder = self.folders.generation(manifest.name, manifest.generation)
        found = Originals(folder, manifest.num_pairs, remedy=originals_hint(manifest.name))
        return Earlier(folder, self.stored(manifest).pair_ids(), found.table, manifest.files)

    def intact(self, manifest: Manifest, name: str) -> bool:
        """Whether the file `name` is as the `manifest` tells."""
        path = self.folders.generation(manifest.name, manifest.generation) / name
        return path.is_file() and file_hash(path) == manifest.files[name]["sha256"]
