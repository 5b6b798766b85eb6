"""A data set as a folder that DVC tracks, and the way back: data/snapshots/<name>.

DVC never works on data/kb itself: it writes files one by one, which a reader would see half done, and knows nothing of
the locks there. A snapshot is a folder beside it, of the files that the manifest names, linked where the disk can. It
comes back as a generation of its own, whole before the manifest names it; readers see the state before or after.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rag_diffusion.errors import BusyError, ConfigError, DataError, LineageError, RagDiffusionError
from rag_diffusion.files import atomic_dir, file_hash, recover_dir
from rag_diffusion.knowledge.folders import MANIFEST, DataSetFolders, check_name
from rag_diffusion.knowledge.versions import dvc_path, snapshots
from rag_diffusion.layout import SNAPSHOTS
from rag_diffusion.store.manifest import CORPUS_NAME, Manifest


def _snapshot_folder(root: Path, name: str) -> Path:
    """Where the snapshot of the data set `name` lies in the project at `root`."""
    return root / SNAPSHOTS / name


def take(root: Path, name: str, *, wait: float) -> Manifest:
    """Make the folder of a data set's present state; the one that was there goes.

    Args:
        root: the project.
        name: of the data set.
        wait: seconds to wait for who writes it.

    Raises:
        ConfigError: it is the pipeline's corpus, which DVC tracks anyway.
        DataError: there is no such data set, or a file of it is damaged.
        BusyError: another process writes it.
    """
    if name == CORPUS_NAME:
        raise ConfigError("kb snapshot: expected a data set of your own, got 'corpus', which DVC tracks as data/corpus")
    folders, folder = DataSetFolders(root), _snapshot_folder(root, check_name(name))
    with folders.writing(name, wait):
        manifest = Manifest.read(folders.manifest(name))
        recover_dir(folder)
        with atomic_dir(folder) as beside:
            _link(folders.generation(name, manifest.generation), beside, manifest, f"`rag-diffusion kb rebuild {name}`")
            replace(manifest, generation=0).write(beside / MANIFEST)
    return manifest


@contextmanager
def versioning(root: Path, *, wait: float) -> Iterator[None]:
    """Hold the right to change snapshots and their .dvc files, from the first step of a command to the last.

    Args:
        root: the project.
        wait: seconds to wait for another command.

    Raises:
        BusyError: another command is at them.
    """
    lock = FileLock(DataSetFolders(root).base / ".locks" / ".snapshots.lock", timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(
            "kb: expected to be the only one that changes snapshots, but another `kb snapshot` or `kb restore` did so "
            f"and went on for {wait:g} s; wait until it is done and run it again: nothing was changed"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_saved(root: Path, name: str) -> None:
    """Refuse to go on where what lies there now is in no snapshot and would be lost.

    Args:
        root: the project.
        name: of the data set.

    Raises:
        ConfigError: it is in none.
    """
    lost = unsaved(root, name)
    if lost is not None:
        raise ConfigError(
            f"kb restore: expected what lies there now to be in a snapshot, but version {lost.hash[:12]} of {name!r} "
            f"({lost.num_pairs} pairs) is in none; `rag-diffusion kb snapshot {name}` keeps it, --force loses it"
        )


def put_back(root: Path, name: str, *, wait: float, force: bool = False) -> Manifest:
    """Make the data set what its snapshot's folder holds.

    Args:
        root: the project.
        name: of the data set.
        wait: seconds to wait for who writes it.
        force: whether what lies there may be lost; a writer may just have added what no snapshot holds.

    Returns:
        The manifest of the data set as it lies there then.

    Raises:
        ConfigError: what lies there is in no snapshot; it stays.
        DataError: the folder is missing or damaged; the data set stays as it was.
        LineageError: another version of this package made it.
        BusyError: another process writes the data set.
    """
    folders, folder = DataSetFolders(root), _snapshot_folder(root, check_name(name))
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: expected a snapshot, found none; run `dvc pull {dvc_path(name)}`")
    with folders.writing(name, wait):
        saved = _read(folder)
        old = _present(folders, name)
        if not force:
            check_saved(root, name)
        if old is not None and old == replace(saved, generation=old.generation) and _whole(folders, old):
            return old
        taken = [int(path.name) for path in folders.folder(name).glob("*") if path.name.isdecimal()]
        number = 1 + max(taken, default=0)
        manifest, generation = replace(saved, generation=number), folders.generation(name, number)
        generation.mkdir(parents=True)
        try:
            _link(folder, generation, manifest, f"`dvc checkout --force {dvc_path(name)}`, or `dvc pull`")
        except DataError:
            shutil.rmtree(generation)
            raise
        manifest.write(folders.manifest(name))
        folders.sweep(name)
        return manifest


def unsaved(root: Path, name: str) -> Manifest | None:
    """The present state of a data set, if it is one that DVC does not track.

    Args:
        root: the project.
        name: of the data set.
    """
    present = _present(DataSetFolders(root), name)
    tracked = {kept.version.hash for kept in snapshots(root, name)}
    return present if present is not None and not present.remote and present.hash not in tracked else None


def _read(folder: Path) -> Manifest:
    try:
        return Manifest.read(folder / MANIFEST)
    except LineageError as error:
        problem = str(error).split(";")[0]
        raise LineageError(
            f"{problem}; check out the code that made it, or add the data set again from its source"
        ) from None


def _present(folders: DataSetFolders, name: str) -> Manifest | None:
    """What lies here; None where nothing does, or what cannot be read, which is what a snapshot is a remedy for."""
    try:
        return Manifest.read(folders.manifest(name))
    except RagDiffusionError:
        return None


def _whole(folders: DataSetFolders, manifest: Manifest) -> bool:
    folder = folders.generation(manifest.name, manifest.generation)
    return all(_is_intact(folder / name, entry) for name, entry in _files(manifest).items())


def _files(manifest: Manifest) -> Mapping[str, Mapping[str, Any]]:
    """The manifest's entry of each file, its sha256 among it, by name."""
    return {**manifest.files, **{str(shard["name"]): shard for shard in manifest.shards}}


def _is_intact(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and file_hash(path) == entry["sha256"]


def _link(source: Path, target: Path, manifest: Manifest, remedy: str) -> None:
    """Have the files of a manifest in another folder too, every byte as it tells; nobody ever writes into one.

    Raises:
        DataError: one is missing or was changed.
    """
    for name, entry in _files(manifest).items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            original = (source / name).resolve(strict=True)  # DVC may have linked it to its cache
            try:
                os.link(original, path)
            except OSError:  # another disk, or one without links
                shutil.copyfile(original, path)
        except FileNotFoundError:
            raise DataError(
                f"{source / name}: expected a file of {manifest.name!r}, found none; run {remedy}"
            ) from None
        if not _is_intact(path, entry):
            raise DataError(
                f"{source / name}: expected sha256 {entry['sha256'][:12]}…, got another: it was changed; run {remedy}"
            )
