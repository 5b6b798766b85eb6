"""A user's own images with captions, in any form that `kb add` takes, as pairs of a corpus."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rag_diffusion.config import FolderConfig
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.progress import progress
from rag_diffusion.readers.card import licence_of
from rag_diffusion.readers.checked import to_pair
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.svg import is_drawing
from rag_diffusion.types import Pair

SOURCE = "folder"


def load_pairs(config: FolderConfig, root: Path, image_size: int) -> tuple[list[Pair], dict[str, Any]]:
    """Read a folder or file; what cannot be a pair is a counted rejection with its reason.

    Args:
        config: where it lies, its form, which part of a text is the caption, and what is said of all its images.
        root: project root, base of a relative `config.path`.
        image_size: side in pixels of the square each image is scaled into.

    Returns:
        Pairs without family and duplicate group (empty strings), with the split that the source names, if any, and
        facts for the manifest.

    Raises:
        ConfigError: nothing lies there, or nothing of the form.
    """
    path = root / config.path
    if not config.path or not path.exists():
        raise ConfigError(
            f"corpus.folder.path: expected images with captions, a folder or a file, got {config.path!r}; set it in "
            "params.yaml"
        )
    try:
        reader = open_reader(config.form, path, part=config.caption)
    except DataError as error:
        raise ConfigError(f"corpus.folder.path: {error}") from None
    licence, pairs, rejected = licence_of(path, config.licence), list[Pair](), list[Rejection]()
    for one in progress(reader, desc=f"reading {reader.form}", unit="img"):
        made = _pair(one, image_size, licence, config.attribution) if isinstance(one, Item) else one
        if isinstance(made, Rejection):
            rejected.append(made)
        else:
            pairs.append(made)
    facts = {"form": reader.form, "rejected": [asdict(one) for one in rejected], "doubts": reader.doubts.told()}
    return pairs, facts | {"style_words": {}, "kinds": {}}


def _pair(item: Item, image_size: int, licence: str, attribution: str) -> Pair | Rejection:
    made = to_pair(item, data_set=SOURCE, size=image_size, licence=licence, attribution=attribution)
    if isinstance(made, Rejection):
        return made
    return replace(
        made,
        family="",
        duplicate_group="",
        split=made.split if item.split.strip() else "",
        original=item.image if is_drawing(item.image) else None,  # photographs stay where they are
    )
