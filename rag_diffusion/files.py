"""Writing so that nothing half-written is ever taken for whole: write beside, then rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Fill a directory beside `path`, then rename it over `path`.

    Args:
        path: the directory to make or to replace.

    Yields:
        An empty directory next to `path`; on an error it is removed and `path` stays as it was.

    Raises:
        DataError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    beside.mkdir()
    try:
        yield beside
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(beside, path)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        _raise_if_full(error, path)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def recover_dir(path: Path | str) -> None:
    """Clear away what processes that were killed inside `atomic_dir` left; nobody else may be writing `path` now.

    A kill between its two renames leaves no `path`, but the old directory beside it: that is put back.

    Args:
        path: as for `atomic_dir`.
    """
    path = Path(path)
    old = sorted(path.parent.glob(f".{path.name}.*.old"), key=lambda folder: folder.stat().st_mtime)
    if old and not path.exists():
        os.replace(old.pop(), path)
    for left in (*old, *path.parent.glob(f".{path.name}.*.tmp")):
        shutil.rmtree(left, ignore_errors=True)


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Write `content`, text as UTF-8, to a file beside `path`, then rename it over `path`.

    Raises:
        DataError: the disk is full; `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        _raise_if_full(error, path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def file_hash(path: Path | str) -> str:
    """sha256 of the bytes of the file at `path`, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(path: Path | str) -> str:
    """sha256 over the relative names and bytes of all files below the directory `path`, in hex."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def code_hash(*packages: str) -> str:
    """sha256 over the source files of packages of this library, in hex: what unfinished work must be of, to go on.

    Args:
        packages: e.g. `sampling`.
    """
    digest = hashlib.sha256()
    for package in packages:
        folder = Path(__file__).parent / package
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Short hash of the `facts` that must be the same for unfinished work to go on: 16 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _raise_if_full(error: Exception, path: Path) -> None:
    """Tell a full disk; safetensors says so with an error of its own, by the number in its text alone."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    full = isinstance(error, OSError) and error.errno in numbers
    if full or any(f"(os error {number})" in str(error) for number in numbers):
        free = shutil.disk_usage(path.parent).free / 2**20
        raise DataError(
            f"{path}: expected room to write, but the disk is full ({free:.0f} MiB free); free some space and run "
            "the stage again. Nothing half-written was kept"
        ) from error
