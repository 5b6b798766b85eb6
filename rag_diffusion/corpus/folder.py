"""A user's own images with captions: Hugging Face `imagefolder` with metadata.jsonl, or image.png + image.txt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_diffusion.config import FolderConfig
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.progress import progress
from rag_diffusion.readers.caption_text import Doubts, check_choice, choose
from rag_diffusion.readers.captioned import IMAGE_SUFFIXES, Row, captioned_rows, has_files
from rag_diffusion.readers.card import UNSPECIFIED, card_licence
from rag_diffusion.readers.images import decode, encode_png, to_square
from rag_diffusion.readers.labels import labels_of
from rag_diffusion.readers.svg import SUFFIX, svg_to_png
from rag_diffusion.types import Pair


def load_pairs(config: FolderConfig, root: Path, image_size: int) -> tuple[list[Pair], dict[str, Any]]:
    """Read a folder of images.

    With a metadata.jsonl its rows name the images (`file_name`) and captions (`text` or `caption`), and may set
    `entity`, `style`, `category`, `title`, `licence`, `attribution`, or other names in `corpus.labels`. Without
    one, each image needs a text file of the same name. `config.caption` says which part of a text is the caption. Bad
    pairs are counted rejections with a reason.

    Args:
        config: the folder and what is said of all its images.
        root: project root, base of a relative `config.path`.
        image_size: side in pixels of the square each image is scaled into.

    Returns:
        Pairs without family, split and duplicate group (empty strings), and facts for the manifest.

    Raises:
        ConfigError: the folder does not exist, or holds no images.
    """
    folder = root / config.path
    if not config.path or not folder.is_dir():
        raise ConfigError(
            f"corpus.folder.path: expected a folder of images, got {config.path!r}; set it in params.yaml"
        )
    if not has_files(folder):
        raise ConfigError(
            f"corpus.folder.path: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}, got none"
        )
    how, doubts = check_choice(config.caption), Doubts()
    if config.licence in ("", UNSPECIFIED):
        config = config.model_copy(update={"licence": card_licence(folder) or config.licence})
    pairs: list[Pair] = []
    rejected: list[dict[str, str]] = []
    for row in progress(list(captioned_rows(folder)), desc="reading images", unit="img"):
        try:
            if row.problem:
                raise DataError(row.problem)
            caption = choose(row.caption, how)
            pairs.append(_pair(replace(row, caption=caption), folder / row.name, config, image_size))
            doubts.look(row.name, row.caption, caption)
        except DataError as error:
            rejected.append({"what": row.name, "reason": str(error)})
    return pairs, {"rejected": rejected, "style_words": {}, "kinds": {}, "doubts": doubts.told()}


def _pair(row: Row, path: Path, config: FolderConfig, image_size: int) -> Pair:
    caption = " ".join(row.caption.split())
    if not caption:
        raise DataError("empty caption")
    content = path.read_bytes()
    drawing = content if path.suffix.lower() == SUFFIX else None
    try:
        image = decode(content if drawing is None else svg_to_png(drawing, row.name), row.name)
    except DataError as error:
        raise DataError(f"unreadable image: {error}") from None
    labels = labels_of(row.fields)
    pair_id = f"folder/{row.name}"
    return Pair(
        pair_id=pair_id,
        source="folder",
        entity=labels.get("entity", pair_id),
        family="",
        category=labels.get("category", labels.get("entity", "default")),
        style=labels.get("style", "default"),
        title=labels.get("title", caption),
        caption=caption,
        licence=labels.get("licence", config.licence),
        attribution=labels.get("attribution", config.attribution),
        image=encode_png(to_square(image, image_size)),
        original=drawing,
        split="",
        duplicate_group="",
    )
