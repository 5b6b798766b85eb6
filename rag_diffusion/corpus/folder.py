"""A user's own images with captions: Hugging Face `imagefolder` with metadata.jsonl, or image.png + image.txt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_diffusion.config import FolderConfig
from rag_diffusion.corpus.images import decode, encode_png, to_square
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.progress import progress
from rag_diffusion.types import Pair

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
METADATA = "metadata.jsonl"
_CAPTION_KEYS = ("text", "caption")
_LABELS = ("entity", "style", "category", "title", "licence", "attribution")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One image file with its caption and optional labels, or the reason why it is none."""

    name: str
    caption: str = ""
    labels: dict[str, str] | None = None
    problem: str = ""


def load_pairs(config: FolderConfig, root: Path, image_size: int) -> tuple[list[Pair], dict[str, Any]]:
    """Read a folder of images.

    With a metadata.jsonl its rows name the images (`file_name`) and captions (`text` or `caption`), and may set
    `entity`, `style`, `category`, `title`, `licence`, `attribution`. Without one, each image needs a text file of
    the same name. Bad pairs are counted rejections with a reason.

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
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if _is_image(path)}
    if not files:
        raise ConfigError(
            f"corpus.folder.path: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}, got none"
        )
    read = _metadata_rows if (folder / METADATA).exists() else _sidecar_rows
    pairs: list[Pair] = []
    rejected: list[dict[str, str]] = []
    for row in progress(list(read(folder, files)), desc="reading images", unit="img"):
        try:
            if row.problem:
                raise DataError(row.problem)
            pairs.append(_pair(row, files[row.name], config, image_size))
        except DataError as error:
            rejected.append({"what": row.name, "reason": str(error)})
    return pairs, {"rejected": rejected, "style_words": {}, "kinds": {}}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _metadata_rows(folder: Path, files: dict[str, Path]) -> Iterator[_Row]:
    named: set[str] = set()
    lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        where = f"{METADATA}:{number}"
        try:
            fields = json.loads(line)
            name = str(fields["file_name"])
        except (ValueError, KeyError, TypeError):
            yield _Row(name=where, problem=f"no JSON object with file_name: {line[:80]!r}")
            continue
        if name in named:
            yield _Row(name=where, problem=f"image named twice: {name}")
        elif name not in files:
            yield _Row(name=where, problem=f"caption without an image: {name}")
        else:
            caption = next((str(fields[key]) for key in _CAPTION_KEYS if fields.get(key)), "")
            labels = {key: str(fields[key]) for key in _LABELS if fields.get(key)}
            yield _Row(name=name, caption=caption, labels=labels)
        named.add(name)
    for name in files:
        if name not in named:
            yield _Row(name=name, problem=f"image without a caption: not in {METADATA}")


def _sidecar_rows(folder: Path, files: dict[str, Path]) -> Iterator[_Row]:
    captions = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.txt"))}
    for name in files:
        text = captions.pop(Path(name).with_suffix("").as_posix(), None)
        if text is None:
            yield _Row(name=name, problem="image without a caption: no text file of the same name")
        else:
            try:
                yield _Row(name=name, caption=text.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                yield _Row(name=name, problem=f"caption is not UTF-8: {text.name}")
    for path in captions.values():
        name = path.relative_to(folder).as_posix()
        yield _Row(name=name, problem=f"caption without an image: {name}")


def _pair(row: _Row, path: Path, config: FolderConfig, image_size: int) -> Pair:
    caption = " ".join(row.caption.split())
    if not caption:
        raise DataError("empty caption")
    try:
        image = decode(path.read_bytes(), row.name)
    except DataError as error:
        raise DataError(f"unreadable image: {error}") from None
    labels = row.labels or {}
    pair_id = f"folder/{row.name}"
    return Pair(
        pair_id=pair_id,
        source="folder",
        entity=labels.get("entity", pair_id),
        family="",
        category=labels.get("category", "default"),
        style=labels.get("style", "default"),
        title=labels.get("title", caption),
        caption=caption,
        licence=labels.get("licence", config.licence),
        attribution=labels.get("attribution", config.attribution),
        image=encode_png(to_square(image, image_size)),
        original=None,
        split="",
        duplicate_group="",
    )
