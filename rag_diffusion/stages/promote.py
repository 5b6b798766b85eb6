"""Copy what a pipeline of its own has trained to the place in git where others read it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import BASE, RULER


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What is copied where, the card without which it is no result, the command that makes it."""

    source: str
    target: str
    card: str
    command: str


BASE_PROMOTION = Promotion(source="data/pretrained", target=BASE, card="card.json", command="make base")
RULER_PROMOTION = Promotion(source="data/ruler_trained", target=RULER, card="ruler.json", command="make ruler")


def promote_base(root: Path | str = Path()) -> Path:
    """Make the result of pipelines/pretrain the base generator, data/base. Returns that path."""
    return _promote(BASE_PROMOTION, Path(root))


def promote_ruler(root: Path | str = Path()) -> Path:
    """Make the result of pipelines/ruler the ruler, data/ruler. Returns that path."""
    return _promote(RULER_PROMOTION, Path(root))


def _promote(promotion: Promotion, root: Path) -> Path:
    source, target = root / promotion.source, root / promotion.target
    if not (source / promotion.card).is_file():
        raise DataError(
            f"{source / promotion.card}: expected a finished result with its card, found none; "
            f"make it with `{promotion.command}`"
        )
    with atomic_dir(target) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
    return target
