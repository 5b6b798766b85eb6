"""From an item that anybody may have made to a pair of a corpus or a knowledge base, or to the reason why not."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import replace
from typing import Protocol

from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.readers.images import ImageError, decode, encode_png, to_square
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.svg import SIDE, is_drawing, picture_of
from rag_diffusion.types import SPLITS, Pair

MAX_CAPTION = 10_000  # characters; no encoder reads more, and nobody's description is longer
MAX_NAME = 1024  # bytes
MAX_FIELD = 1000  # characters of a label, a style, a licence, ...
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})  # what follows shows elsewhere
_STEP = re.compile(r"(?<![^/\\])\.\.(?![^/\\])")  # a whole part `..` of a path
_PIXELS = "pixels:"  # how the duplicate group of equal pixels begins
_SPLITS = {name: name for name in SPLITS} | {
    "": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "test",
    "evaluation": "test",
    "testing": "test",
}


class CaptionError(DataError):
    """A caption that is not taken; the message is the reason, a short class before its colon."""


class Decode(Protocol):
    """`checked_image`, perhaps in another process."""

    def __call__(self, content: bytes, what: str, size: int, side: int = 0) -> Image.Image:
        """See `checked_image`."""
        ...


def checked_image(content: bytes, what: str, size: int, side: int = 0) -> Image.Image:
    """Decode an image that anybody may have made and scale it into a white square.

    Args:
        content: an encoded image file or an SVG.
        what: name used in the error.
        size: side of the square in pixels.
        side: pixels of the longer side with which a drawing is rendered first, or to which a frame is scaled down
            first; a larger square needs as many as it has. 0 renders drawings at `svg.SIDE`, and scales nothing down.

    Returns:
        (size, size) RGB: upright, transparency on white, CMYK, palettes and 16-bit gray converted.

    Raises:
        ImageError: corrupt, truncated, animated, too large, or no image; `reason` says which.
    """
    if is_drawing(content):
        return to_square(picture_of(content, what, max(side or SIDE, size)), size)
    if not side:
        return to_square(decode(content, what, side=size), size)
    whole = decode(content, what)
    whole.thumbnail((max(side, size), max(side, size)), Image.Resampling.BICUBIC)
    return to_square(whole, size)


def checked_caption(text: str) -> tuple[str, str]:
    """Clean a caption that anybody may have written.

    Letters and marks of all scripts stay as they are, also those that run from right to left, in Unicode's composed
    form. Control characters and null bytes become spaces, lone surrogates question marks, and runs of spaces one space.

    Args:
        text: as it stood in its file.

    Returns:
        The caption, and what was replaced in it, empty where nothing was.

    Raises:
        CaptionError: nothing is left, or it is longer than `MAX_CAPTION` characters.
    """
    if text.isascii() and text.isprintable() and len(text) <= MAX_CAPTION and any(map(str.isalnum, text)):
        return " ".join(text.split()), ""
    if len(text) > 100 * MAX_CAPTION:  # spaces alone would not make it so long
        raise CaptionError(f"caption too long: {len(text)} characters, at most {MAX_CAPTION}")
    whole = text.encode("utf-8", "replace").decode()
    printable = "".join(" " if unicodedata.category(char) == "Cc" else char for char in whole)
    plain = " ".join(printable.split())
    if len(plain) > MAX_CAPTION:
        raise CaptionError(f"caption too long: {len(plain)} characters, at most {MAX_CAPTION}")
    if not any(unicodedata.category(char)[0] in "LNSPM" for char in plain):
        raise CaptionError(f"empty caption: {text[:40]!r}")
    replaced = sum(unicodedata.category(char) == "Cc" and not char.isspace() for char in text)
    lone = sum(unicodedata.category(char) == "Cs" for char in text)
    notes = [f"{replaced} control characters"] * bool(replaced) + [f"{lone} lone surrogates"] * bool(lone)
    return unicodedata.normalize("NFC", plain), f"replaced {' and '.join(notes)}" if notes else ""


def checked_name(name: str) -> str:
    """A `name` as any file, terminal and database can hold it.

    Bytes, control characters, those that turn the direction of writing, and steps out of a folder are written as %XX.

    Raises:
        DataError: it is empty, or longer than `MAX_NAME` bytes.
    """
    clean = named(name)
    if not clean or len(clean.encode()) > MAX_NAME:
        raise DataError(f"bad name: {len(clean.encode())} bytes, expected 1 to {MAX_NAME}: {clean[:80]!r}")
    return clean


def named(name: str) -> str:
    """A `name` as it stands in a pair id: `escaped`, and no part of it leads out of a folder."""
    return _STEP.sub(lambda match: match[0].replace(".", "%2E"), escaped(name)) if ".." in name else escaped(name)


def escaped(name: str) -> str:
    """A `name` with %XX for control characters, those that turn the direction of writing, and what is no UTF-8."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(char if _plain(char) else _percent(char) for char in name)


def to_pair(
    item: Item, *, data_set: str, size: int, licence: str, attribution: str, decode: Decode = checked_image
) -> Pair | Rejection:
    """Check an item and make a pair of it.

    Args:
        item: what a reader yielded.
        data_set: name of the data set; the pair id is `<data_set>/<item.name>`.
        size: side of the pair's image in pixels.
        licence: of items that name none.
        attribution: of items that name none.
        decode: as `checked_image`, perhaps in another process.

    Returns:
        The pair, or why there is none. Pairs of equal pixels share a duplicate group.
    """
    pair = checked_pair(item, data_set=data_set, size=size, licence=licence, attribution=attribution, decode=decode)
    return pair if isinstance(pair, Rejection) else pair[0]


def checked_pair(
    item: Item, *, data_set: str, size: int, licence: str, attribution: str, decode: Decode = checked_image
) -> tuple[Pair, Image.Image] | Rejection:
    """`to_pair`, with the pair's image as it is before it is encoded again.

    Args:
        item: see `to_pair`, as the others.
        data_set: name of the data set.
        size: side of the pair's image in pixels.
        licence: of items that name none.
        attribution: of items that name none.
        decode: as `checked_image`.

    Returns:
        The pair and its (size, size) RGB image, or why there is none.
    """
    what = escaped(item.name)[:MAX_NAME]
    try:
        name = checked_name(item.name)
        caption, _ = checked_caption(item.caption)
        label, category, style, title, own_licence, own_attribution = (
            _checked_field(value, field)
            for value, field in (
                (item.label, "label"),
                (item.category, "category"),
                (item.style, "style"),
                (item.title, "title"),
                (item.licence, "licence"),
                (item.attribution, "attribution"),
            )
        )
        split = _SPLITS.get(item.split.strip().lower())
        if split is None:
            raise DataError(f"unknown split: {item.split[:40]!r}, expected one of {', '.join(SPLITS)}")
        image = decode(item.image, name, size, item.side)
    except ImageError as error:
        return Rejection(what=what, reason=error.reason)
    except DataError as error:
        return Rejection(what=what, reason=str(error))
    pair_id = f"{data_set}/{name}"
    pair = Pair(
        pair_id=pair_id,
        source=data_set,
        entity=label or pair_id,
        family=label or pair_id,
        category=category or label or "default",
        style=style or "default",
        title=title or label or caption,
        caption=caption,
        licence=own_licence or licence,
        attribution=own_attribution or attribution,
        image=encode_png(image),
        original=item.image,
        split=split,
        duplicate_group=_group_of(image),
    )
    return pair, image


def _group_of(image: Image.Image) -> str:
    """The duplicate group of a pair that nothing else is known of: that of equal pixels."""
    return f"{_PIXELS}{hashlib.sha256(image.tobytes()).hexdigest()[:32]}"


def at_size(pair: Pair, content: bytes, size: int, side: int, decode: Decode) -> tuple[Pair, Image.Image]:
    """A pair with its image at another size, and this image as it is before it is encoded; as `checked_pair` makes it.

    Args:
        pair: that was checked before.
        content: its original, or its image where there is none.
        size: pixels on each side.
        side: see `Item.side`.
        decode: of pictures.

    Raises:
        ImageError: the original does not decode any more.
    """
    image = decode(content, pair.pair_id, size, side)
    group = _group_of(image) if pair.duplicate_group.startswith(_PIXELS) else pair.duplicate_group
    return replace(pair, image=encode_png(image), duplicate_group=group), image


def _checked_field(text: str, field: str) -> str:
    """One short text of an item; empty stays empty."""
    if not text.strip():
        return ""
    try:
        plain, _ = checked_caption(text)
    except CaptionError as error:
        raise DataError(f"bad {field}: {error}") from None
    if len(plain) > MAX_FIELD:
        raise DataError(f"bad {field}: {len(plain)} characters, at most {MAX_FIELD}")
    return plain


def _plain(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") and unicodedata.bidirectional(char) not in _TURNS


def _percent(char: str) -> str:
    """%XX of a character's bytes; of the one byte, for a byte of a file name that was no UTF-8."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"%{code - 0xDC00:02X}"
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
