"""Undo what a `kill -9` of DVC can leave: it rewrites dvc.lock, and its list of busy paths, in place.

A kill while it does so, some 30 ms after each stage, leaves half a file, and DVC then refuses to work or has forgotten
every result. No result is lost with it: dvc.lock is as git has it, and what was made since comes from DVC's run-cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import parse_yaml
from voluptuous import Invalid

SECONDS_BETWEEN_LOOKS = 0.5
_LOOKS = 3  # a file that is being written now looks broken too


def mend(root: Path) -> list[str]:
    """Replace a broken dvc.lock, remove a broken list of busy paths; says so on stderr.

    Args:
        root: the DVC project.

    Returns:
        What was done, in words.
    """
    done = []
    lock, busy = root / "dvc.lock", root / ".dvc" / "tmp" / "rwlock"
    if _stays_broken(lock, _is_lock):
        kept = lock.with_name("dvc.lock.broken")
        os.replace(lock, kept)
        committed = _committed(root)
        if committed is not None:
            lock.write_bytes(committed)
        now = "it is now as git has it" if committed is not None else "a new one begins"
        done.append(f"dvc.lock was half-written (kept as {kept.name}): {now}, and DVC finds later results in its cache")
    if _stays_broken(busy, _is_json):
        busy.unlink(missing_ok=True)
        done.append(".dvc/tmp/rwlock was half-written and has been removed")
    for what in done:
        print(f"mended: {what}", file=sys.stderr, flush=True)
    return done


def _stays_broken(path: Path, whole: Callable[[Path], bool]) -> bool:
    for look in range(_LOOKS):
        if not path.exists() or whole(path):
            return False
        if look < _LOOKS - 1:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return True


def _is_lock(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        lock = COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, str(path)))
    except (DvcException, Invalid, UnicodeDecodeError, FileNotFoundError):
        return False
    stages = lock.get("stages", {}).values()
    return text.endswith("\n") and all(
        "md5" in one for stage in stages for kind in ("deps", "outs") for one in stage.get(kind, [])
    )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError):
        return False
    return True


def _committed(root: Path) -> bytes | None:
    found = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=root, capture_output=True, check=False)
    return found.stdout if found.returncode == 0 else None
