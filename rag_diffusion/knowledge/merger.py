"""Merging the segments of a data set: in the background, while others read, search and insert.

Eight segments of about one size become one of the next size, so that there are few whatever was inserted, and each pair
is written again a logarithmic number of times. What is merged is linked into a scratch folder first; the right to write
the data set is held for that and for the swap alone. A merge that is killed leaves the data set as it was.

Source: tiered merging, as Lucene's LogMergePolicy has it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from threading import Lock, Thread

from rag_diffusion.errors import BusyError, ConfigError
from rag_diffusion.knowledge.folders import MADE, DataSetFolders
from rag_diffusion.knowledge.generations import Generations
from rag_diffusion.knowledge.ingest import keep
from rag_diffusion.store.manifest import CORPUS_NAME, Manifest, rebuild_hint
from rag_diffusion.store.segments import Segment, link_segment, segments_of
from rag_diffusion.store.shard_source import ShardSource
from rag_diffusion.store.staging import Staging
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

MERGED = 8  # segments of one size
MOST = 64  # segments; more of them are merged before an insertion ends, where no process lived to do it
_log = logging.getLogger(__name__)


def due(manifest: Manifest) -> list[Segment]:
    """The segments of the data set of a `manifest` that are to become one: those of the smallest size of which there
    are enough; empty where nothing is to be done.
    """
    sizes: dict[int, list[Segment]] = defaultdict(list)
    for segment in segments_of(manifest):
        sizes[(segment.manifest.num_pairs.bit_length() - 1) // 3].append(segment)  # powers of eight
    return next((sizes[size] for size in sorted(sizes) if len(sizes[size]) >= MERGED), [])


class Merger:
    """Merges segments of data sets.

    Args:
        folders: where they lie.
        generations: makes new ones.
        wait: seconds to wait for a writer of the same data set.
    """

    def __init__(self, folders: DataSetFolders, generations: Generations, *, wait: float) -> None:
        self._folders, self._generations, self._wait = folders, generations, wait
        self._lock = Lock()
        self._threads: dict[str, Thread] = {}

    def after(self, manifest: Manifest) -> None:
        """Do what an insertion makes due in the data set of a `manifest`; it ends before the merge does."""
        if not due(manifest):
            return
        if len(manifest.segments) >= MOST:
            self._merge_once(manifest.name)
            return
        with self._lock:
            running = self._threads.get(manifest.name)
            if running is None or not running.is_alive():
                thread = Thread(target=self._merge_all, args=(manifest.name,), name="merge", daemon=True)
                self._threads[manifest.name] = thread
                thread.start()

    def finish(self) -> None:
        """Wait until every merge that was begun here is done."""
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join()

    def merge(self, name: str, *, everything: bool = False) -> Manifest:
        """Merge segments of the data set `name`.

        Args:
            name: of the data set.
            everything: whether all become one; else those that are due.

        Returns:
            The manifest of the data set then; nothing is changed where nothing is due.

        Raises:
            ConfigError: another machine or the pipeline makes it, or a merged index recalls less than
                `index.min_recall`.
            DataError: there is no such data set, or a segment is damaged.
            BusyError: another process merges or writes the data set.
        """
        if name == CORPUS_NAME:
            raise ConfigError(
                f"kb: expected a data set of your own, got {name!r}: what `dvc repro` makes is whole, there is nothing "
                "to merge"
            )
        with self._folders.merger(name) as mine:
            manifest = Manifest.read(self._folders.manifest(name))
            if manifest.remote:
                raise ConfigError(f"kb: expected a data set on this machine, but {name!r} is served by {manifest.url}")
            if not mine:
                raise BusyError(
                    f"kb: expected to be the only one that merges {name!r}, but another process does so; wait until it "
                    "is done and run it again: nothing was changed"
                )
            scratch = self._folders.merging(name)
            with self._folders.writing(name, self._wait):
                manifest = Manifest.read(self._folders.manifest(name))
                chosen = segments_of(manifest) if everything else due(manifest)
                if len(chosen) < 2:
                    return manifest
                sources = [(scratch / f"source-{number}", one.manifest) for number, one in enumerate(chosen)]
                for one, (folder, _) in zip(chosen, sources, strict=True):
                    link_segment(self._generations.folder(manifest, one), folder, one.manifest)
            return self._merged(manifest, chosen, sources, scratch)

    def _merged(
        self, manifest: Manifest, chosen: list[Segment], sources: list[tuple[Path, Manifest]], scratch: Path
    ) -> Manifest:
        """Make one segment of linked ones, and put it in their place if they are still there."""
        name, remedy = manifest.name, rebuild_hint(manifest.name)
        kept = ("form", "origin", "licence", "attribution", "image_size", "encoder_hash", "originals", "style_words")
        facts = Manifest(name=name, **{key: getattr(manifest, key) for key in kept})
        staging = Staging(scratch / "build", {"merge": name})
        for folder, own in sources:
            vectors = Vectors.open(folder / VECTORS_FILE, own.num_pairs, remedy=remedy)
            keep(staging, ShardSource(folder, own), vectors)
        made = scratch / MADE
        earlier = self._generations.earlier(sources) if manifest.originals else []
        segment = self._generations.segment(made, staging.parts, facts, earlier, chosen)
        with self._folders.writing(name, self._wait):
            present = Manifest.read(self._folders.manifest(name))
            there = {one.content: one for one in segments_of(present)}
            if not all(one.content in there for one in chosen):
                return present  # removed, replaced or rebuilt meanwhile
            gone = {one.content for one in chosen}
            beside = [one for one in there.values() if one.content not in gone]
            return self._generations.swap(facts, made, segment, present, beside)

    def _merge_all(self, name: str) -> None:
        while self._merge_once(name):
            pass

    def _merge_once(self, name: str) -> bool:
        """Merge what is due; whether it was done. What goes wrong is told, and the data set is as it was."""
        try:
            before = Manifest.read(self._folders.manifest(name))
            return bool(due(before)) and self.merge(name).generation != before.generation
        except BusyError:
            return False  # another one writes or merges; the next insertion tries again
        except Exception as error:  # of an encoder or an index, too: nobody waits for this thread
            _log.warning("segments of %s were not merged: %s", name, error)
            return False
