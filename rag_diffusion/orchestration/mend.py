"""Undo what a `kill -9` of DVC can leave: it rewrites dvc.lock, and its list of busy paths, in place.

A kill while it does so, some 30 ms after each stage, leaves half a file, and DVC then refuses to work or has forgotten
every result. So each look at a whole dvc.lock keeps a copy, from which a broken one is restored; where there is none,
git's is taken. What was made since comes from DVC's run-cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import parse_yaml
from voluptuous import Invalid

from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_write

SECONDS_BETWEEN_LOOKS = 0.5
_LOOKS = 3  # a list of busy paths that is being written now looks broken too


def mend(root: Path) -> list[str]:
    """Replace a broken dvc.lock, remove a broken list of busy paths; says so on stderr.

    A dvc.lock that DVC is writing now looks broken too: it is waited for, and nothing done.

    Args:
        root: the DVC project.

    Returns:
        What was done, in words.

    Raises:
        DataError: a merge's conflict is in dvc.lock, which is for its user to solve.
    """
    done = []
    while not is_whole(root):
        with suppress(LockError), Repo(str(root)) as repo, repo.lock:  # DVC holds it while it writes dvc.lock
            if not is_whole(root):
                done.append(_restore(root))
    _keep_copy(root)
    busy = root / ".dvc" / "tmp" / "rwlock"
    if _stays_broken(busy, _is_json):
        busy.unlink(missing_ok=True)
        done.append(".dvc/tmp/rwlock was half-written and has been removed")
    for what in done:
        print(f"mended: {what}", file=sys.stderr, flush=True)
    return done


def is_whole(root: Path) -> bool:
    """Whether the project at `root` has a dvc.lock that DVC has written to its end, or none."""
    lock = root / "dvc.lock"
    try:
        return _is_lock(lock.read_bytes(), lock)
    except FileNotFoundError:
        return True


def _restore(root: Path) -> str:
    lock, copy = root / "dvc.lock", _copy(root)
    if b"\n<<<<<<< " in b"\n" + lock.read_bytes():
        raise DataError(
            f"{lock}: expected what DVC wrote, found a merge's conflict; take one side, as by "
            "`git checkout --ours dvc.lock`, then run `dvc repro`: what either side has made is in DVC's cache"
        )
    kept = lock.with_name("dvc.lock.broken")
    os.replace(lock, kept)
    ways = {
        "it is now as it was when it was last seen whole": copy.read_bytes() if copy.exists() else None,
        "it is now as git has it": _committed(root),
    }
    now = "a new one begins"
    for way, content in ways.items():
        if content is not None and _is_lock(content, lock):
            atomic_write(lock, content)
            now = way
            break
    return f"dvc.lock was half-written (kept as {kept.name}): {now}, and DVC finds later results in its cache"


def _keep_copy(root: Path) -> None:
    lock, copy = root / "dvc.lock", _copy(root)
    try:
        content = lock.read_bytes()
    except FileNotFoundError:
        copy.unlink(missing_ok=True)
        return
    if _is_lock(content, lock) and not (copy.exists() and copy.read_bytes() == content):
        atomic_write(copy, content)


def _copy(root: Path) -> Path:
    return root / ".dvc" / "tmp" / "dvc.lock.whole"


def _stays_broken(path: Path, whole: Callable[[Path], bool]) -> bool:
    for look in range(_LOOKS):
        if not path.exists() or whole(path):
            return False
        if look < _LOOKS - 1:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return True


def _is_lock(content: bytes, path: Path) -> bool:
    try:
        text = content.decode()
        lock = COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, str(path)))
    except (DvcException, Invalid, UnicodeDecodeError):
        return False
    stages = lock.get("stages", {}).values()
    return text.endswith("\n") and all(
        "md5" in file for stage in stages for kind in ("deps", "outs") for file in stage.get(kind, [])
    )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError):
        return False
    return True


def _committed(root: Path) -> bytes | None:
    done = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
