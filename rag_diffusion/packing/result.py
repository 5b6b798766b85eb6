"""Put together what a pack's run wrote in parts, as the result of the stage `pretrain`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_dir
from rag_diffusion.models.load import load_generator
from rag_diffusion.training.card import read_card

_PART = re.compile(r"(.+)\.part(\d+)")


def bring_home(root: Path, out: Path) -> str:
    """Write pipelines/pretrain/result from a run's folder; returns its name.

    Args:
        root: the project.
        out: the folder that run.py wrote; its `model` is read.

    Raises:
        DataError: there is no model, or a part of it is missing.
        ModelError: the whole cannot be loaded.
    """
    source = out / "model"
    if not source.is_dir():
        raise DataError(f"{source}: expected the model that run.py wrote, found no folder; name the folder of --out")
    with atomic_dir(root / layout.PRETRAINED) as beside:
        for path in sorted(source.rglob("*")):
            target = beside / path.relative_to(source)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif not _PART.fullmatch(path.name):
                shutil.copyfile(path, target)
        for whole, parts in _parts(source).items():
            with (beside / whole.relative_to(source)).open("wb") as file:
                for part in parts:
                    file.write(part.read_bytes())
        load_generator(beside)
        read_card(beside)
    return layout.PRETRAINED


def _parts(folder: Path) -> dict[Path, list[Path]]:
    """File -> its parts in order."""
    files: dict[Path, dict[int, Path]] = {}
    for path in folder.rglob("*"):
        if match := _PART.fullmatch(path.name):
            files.setdefault(path.with_name(match[1]), {})[int(match[2])] = path
    for whole, parts in files.items():
        missing = sorted(set(range(max(parts) + 1)) - set(parts))
        if missing:
            raise DataError(f"{whole}: expected parts 0 to {max(parts)}, lacking {missing}; copy them as well")
    return {whole: [parts[number] for number in sorted(parts)] for whole, parts in files.items()}
