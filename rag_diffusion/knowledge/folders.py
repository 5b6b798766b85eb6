"""Where the parts of a knowledge base lie, and who may write them.

data/kb/<name>/manifest.json        the data set's present state; replaced as one file, so readers see old or new
data/kb/<name>/00001/...            what the manifest names: pairs, vectors, indexes of one generation
data/kb/<name>/segments/s00001/...  a segment that several generations have, each by a symbolic link to the folder
data/kb/.building/<name>/           finished parts of a build that is under way, or was killed
data/kb/.merging/<name>/            scratch of who merges its segments
data/kb/.cache/<name>/              images of a remote data set
data/kb/.locks/<name>.lock          held by the one process that writes the data set
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rag_diffusion.errors import BusyError, ConfigError, RagDiffusionError
from rag_diffusion.layout import KB
from rag_diffusion.store.manifest import CORPUS_NAME, Manifest

ALL = "all"  # the index of all data sets together
RESERVED = (CORPUS_NAME, "iconify", "folder", ALL)  # the pipeline's own: its pair ids begin so
MANIFEST, REMOVED = "manifest.json", "removed.json"
SEGMENTS = "segments"
MADE, PUBLISHED = "made", "published"  # in a build: its result, and the generation that it became
_HALF = re.compile(rf"\.{re.escape(MANIFEST)}\..*\.tmp")  # a manifest whose writer was killed
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str) -> str:
    """`name` itself, where a data set can be called so.

    Raises:
        ConfigError: it has other characters than file names and pair ids may have, or is the pipeline's own.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"kb: expected a name of at most 63 small letters, digits, `-`, `_` and `.`, as my-photos, got {name!r}"
        )
    if name in RESERVED:
        what = "all data sets together are" if name == ALL else "what `dvc repro` makes is"
        raise ConfigError(f"kb: expected a name of your own, got {name!r}: {what} called so")
    return name


@dataclass(frozen=True)
class DataSetFolders:
    """Paths below a project's root."""

    root: Path

    @property
    def base(self) -> Path:
        """The folder of all data sets."""
        return self.root / KB

    def folder(self, name: str) -> Path:
        """The folder of the data set `name`."""
        return self.base / name

    def manifest(self, name: str) -> Path:
        """The file that says which generation of the data set `name` holds."""
        return self.base / name / MANIFEST

    def generation(self, name: str, number: int) -> Path:
        """The folder of the generation `number` of the data set `name`."""
        return self.base / name / f"{number:05d}"

    def segment(self, name: str, folder: str) -> Path:
        """Where the segment in the `folder` of generations of the data set `name` lies, which they share."""
        return self.base / name / SEGMENTS / folder

    def building(self, name: str) -> Path:
        """Scratch of a build of the data set `name`."""
        return self.base / ".building" / name

    def merging(self, name: str) -> Path:
        """Scratch of a merge of segments of the data set `name`."""
        return self.base / ".merging" / name

    def cache(self, name: str) -> Path:
        """The folder of images of the remote data set `name`."""
        return self.base / ".cache" / name

    def names(self) -> list[str]:
        """Data sets that there are, by the alphabet."""
        return sorted(path.parent.name for path in self.base.glob(f"[!.]*/{MANIFEST}"))

    @contextmanager
    def merger(self, name: str) -> Iterator[bool]:
        """Whether this is the one that merges segments of the data set `name`, while the block lasts.

        What a killed one left goes first.
        """
        path = self.base / ".locks" / f"{name}.merging"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            _remove(self.merging(name))
            yield True
        finally:
            _remove(self.merging(name))
            lock.release()

    @contextmanager
    def writing(self, name: str, wait: float) -> Iterator[None]:
        """Hold the right to write a data set; a process that is killed loses it.

        Args:
            name: of the data set.
            wait: seconds to wait for another writer.

        Raises:
            BusyError: another one still writes.
        """
        path = self.base / ".locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, holder = FileLock(path, timeout=wait), path.with_suffix(".pid")
        try:
            lock.acquire()
        except Timeout:
            who = f"process {holder.read_text().strip()}" if holder.is_file() else "another process"
            raise BusyError(
                f"kb: expected to be the only one that writes {name!r}, but {who} does so and went on for {wait:g} s; "
                "wait until it is done and run it again: nothing was changed"
            ) from None
        try:
            holder.write_text(f"{os.getpid()}\n")
            self.sweep(name)
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def drop(self, name: str) -> None:
        """Remove the data set `name` and all that was made from it; a kill in between leaves a mark, see `finish`.

        The caller holds the right to write it.
        """
        mark = self.folder(name) / REMOVED
        if self.manifest(name).exists():
            os.replace(self.manifest(name), mark)
        for path in (self.cache(name), self.building(name)):
            _remove(path)
        for path in sorted(self.folder(name).glob("*")):
            if path != mark:
                _remove(path)
        _remove(self.folder(name))

    def forget(self, name: str) -> None:
        """Remove images that were fetched for the remote data set `name`; the caller holds the right to write it."""
        _remove(self.cache(name))

    def finish(self) -> None:
        """End the removals and the builds of processes that were killed after they had taken effect.

        Those that another process is at are left to it.
        """
        marks = (*self.base.glob(f"[!.]*/{REMOVED}"), *self.base.glob(f".building/*/{PUBLISHED}"))
        names = {mark.parent.name for mark in marks}
        names |= {path.name for path in self.base.glob(".cache/*") if not self.manifest(path.name).exists()}
        names |= {path.parent.name for path in self.base.glob(f"[!.]*/.{MANIFEST}.*.tmp")}
        names |= {path.parent.name for path in self.base.glob("[!.]*/[0-9]*") if path != self._held(path.parent.name)}
        for path in self.base.glob(f"[!.]*/{SEGMENTS}"):
            held = self._held(path.parent.name)
            names |= {path.parent.name} if held is not None and self._unlinked(held) else set()
        for name in sorted(names):
            try:
                with self.writing(name, wait=0):
                    pass
            except BusyError:
                continue
        for path in self.base.glob(".merging/*"):
            with self.merger(path.name):
                pass

    def _held(self, name: str) -> Path | None:
        """The generation that a data set's manifest names, if it can be read."""
        try:
            return self.generation(name, Manifest.read(self.manifest(name)).generation)
        except RagDiffusionError:
            return None

    def sweep(self, name: str) -> None:
        """Clear away what killed writers of the data set `name` left.

        A removal half done, generations that nothing names, the scratch of a build that holds, images of no remote. The
        caller holds the right to write it.
        """
        folder, manifest = self.folder(name), self.manifest(name)
        if (folder / REMOVED).exists():
            if manifest.exists():  # removed, added again
                (folder / REMOVED).unlink()
            else:
                self.drop(name)
        try:
            known = Manifest.read(manifest) if manifest.exists() else None
        except RagDiffusionError:
            return  # damaged, or of another version: whoever reads it says so
        held = 0 if known is None else known.generation
        if known is None or not known.remote:
            _remove(self.cache(name))
        published = self.building(name) / PUBLISHED
        if published.is_file() and published.read_text() == str(held):
            _remove(self.building(name))
        if not folder.exists():
            return
        for path in folder.iterdir():
            kept = path.name == SEGMENTS or path == self.generation(name, held)
            if not kept and (path.is_dir() or _HALF.fullmatch(path.name)):
                _remove(path)
        self.drop_segments(name, held)
        if not any(folder.iterdir()):
            folder.rmdir()

    def drop_segments(self, name: str, number: int) -> None:
        """Remove segments that a generation does not have; the caller holds the right to write the data set.

        Args:
            name: of the data set.
            number: of the generation.
        """
        generation = self.generation(name, number)
        for path in self._unlinked(generation):
            _remove(path)
        shared = generation.with_name(SEGMENTS)
        if shared.is_dir() and not any(shared.iterdir()):
            shared.rmdir()

    def _unlinked(self, generation: Path) -> list[Path]:
        """Segments beside a generation that it does not have."""
        linked = {path.name for path in generation.glob("*") if path.is_symlink()}
        return [path for path in generation.with_name(SEGMENTS).glob("*") if path.name not in linked]


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; what cannot be removed is an error, never passed over."""
    if path.is_dir() and not path.is_symlink():
        for last in (False, False, True):
            shutil.rmtree(path, ignore_errors=not last)  # a file may come while it is emptied
            if not path.exists():
                break
    else:
        path.unlink(missing_ok=True)
