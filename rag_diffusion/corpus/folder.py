"""A user's own images with captions, in any form that `kb add` takes, as pairs of a corpus."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rag_diffusion.config import FolderConfig
from rag_diffusion.corpus.rendering import by_workers
from rag_diffusion.engine.work import Engine
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.layout import CORPUS
from rag_diffusion.progress import progress
from rag_diffusion.readers.addresses import is_address
from rag_diffusion.readers.checked import to_pair
from rag_diffusion.readers.forms import OpenReader, open_reader
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.store.kept_items import CorpusItems, KeptItems
from rag_diffusion.types import Pair

SOURCE = "folder"
_LOG = logging.getLogger(__name__)


def load_pairs(
    config: FolderConfig,
    root: Path,
    image_size: int,
    kept: KeptItems | None = None,
    engine: Engine | None = None,
) -> tuple[list[Pair], dict[str, Any]]:
    """Read a folder or file; what cannot be a pair is a counted rejection with its reason.

    Args:
        config: where it lies, its form, which part of a text is the caption, and what is said of all its images.
        root: project root, base of a relative `config.path`.
        image_size: side in pixels of the square each image is scaled into.
        kept: takes each pair, and the item that it was made of.
        engine: whose workers decode and check; None does it here.

    Returns:
        Pairs without family, duplicate group (empty strings) and original, with the split that the source names, if
        any, and facts for the manifest.

    Raises:
        ConfigError: nothing lies there, or nothing of the form.
    """
    source = _source(config, root)
    licence = source.licence(config.licence) if isinstance(source, OpenReader) else config.licence
    pairs, rejected = list[Pair](), list[Rejection]()
    check = partial(_pair, image_size=image_size, licence=licence, attribution=config.attribution)
    made = ((one, check(one)) for one in source) if engine is None else by_workers(engine, check, source)
    for candidate, pair in progress(made, desc=f"reading {source.form}", unit="img"):
        if isinstance(pair, Rejection):
            rejected.append(pair)
        elif isinstance(candidate, Item):
            pairs.append(pair)
            if kept is not None:
                kept.add(pair, candidate)
    facts = {
        "form": source.form,
        "rejected": [asdict(entry) for entry in rejected],
        "doubts": source.doubts.sentences(),
    }
    return pairs, facts | {"originals": config.originals, "style_words": {}, "kinds": {}}


def _source(config: FolderConfig, root: Path) -> OpenReader | CorpusItems:
    """What lies at `config.path`, or what the corpus before keeps of it."""
    path: Path | str = config.path if is_address(config.path) else root / config.path
    if config.path and (isinstance(path, str) or path.exists()):
        columns = {"image_column": config.image_column, "caption_column": config.caption_column}
        try:
            return open_reader(
                config.form, path, part=config.caption, **{name: column for name, column in columns.items() if column}
            )
        except DataError as error:
            raise ConfigError(f"corpus.folder.path: {error}") from None
    earlier = CorpusItems.open(root / CORPUS)
    if earlier is None:
        raise ConfigError(
            f"corpus.folder.path: expected images with captions, a folder or a file, got {config.path!r}; set it in "
            "params.yaml"
        )
    _LOG.warning("corpus.folder.path: nothing lies at %r; reading the originals of the corpus before", config.path)
    return earlier


def _pair(item: Item | Rejection, image_size: int, licence: str, attribution: str) -> Pair | Rejection:
    if isinstance(item, Rejection):
        return item
    pair = to_pair(item, data_set=SOURCE, size=image_size, licence=licence, attribution=attribution)
    if isinstance(pair, Rejection):
        return pair
    split = pair.split if item.split.strip() else ""
    return replace(pair, family="", duplicate_group="", split=split, original=None)
