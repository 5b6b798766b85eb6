"""A package of Iconify: drawings by name, as SVG."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rag_diffusion.errors import DataError


@dataclass(frozen=True, kw_only=True)
class IconSet:
    """One Iconify set: drawings by name, names by code point, aliases."""

    style: str
    words: str
    licence: str
    attribution: str
    icons: Mapping[str, Mapping[str, Any]]
    chars: Mapping[str, str]
    aliases: Mapping[str, Mapping[str, Any]]
    size: tuple[float, float]


def read_set(read: Callable[[str], bytes], *, style: str, words: str = "") -> IconSet:
    """The drawings of an Iconify package.

    Args:
        read: bytes of one of its files.
        style: what the set is called in pair ids.
        words: the style in words; the package's own name where it is empty.

    Raises:
        DataError: a file is not what Iconify writes.
    """
    try:
        icons, chars, info = (json.loads(read(f"{name}.json")) for name in ("icons", "chars", "info"))
        return _icon_set(icons, info, chars, style, words or info["name"], info["license"]["spdx"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{style}: expected icons.json, chars.json and info.json as Iconify writes them, got {error!r}; "
            "use another version of the package"
        ) from None


def set_in_one(data: Mapping[str, Any], what: str) -> IconSet:
    """The drawings of a set whose information stands in the same file, as in the package of all sets.

    Args:
        data: the file's content.
        what: the file, for errors.

    Raises:
        DataError: it is not what Iconify writes.
    """
    try:
        info, prefix = data["info"], str(data["prefix"])
        licence = info.get("license", {})
        return _icon_set(
            data, info, data.get("chars", {}), prefix, info["name"], licence.get("spdx") or licence.get("title", "")
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{what}: expected a set with its information, as Iconify writes it, got {error!r}") from None


def _icon_set(
    icons: Mapping[str, Any], info: Mapping[str, Any], chars: Mapping[str, str], style: str, words: str, licence: str
) -> IconSet:
    return IconSet(
        style=style,
        words=words,
        licence=licence,
        attribution=info["author"]["name"],
        icons=icons["icons"],
        chars=chars,
        aliases=icons.get("aliases", {}),
        size=(icons.get("width", 16), icons.get("height", 16)),
    )


def svg_of(icon_set: IconSet, icon: Mapping[str, Any]) -> bytes:
    """An `icon`, one row of `icons` of an `icon_set`, as an SVG file."""
    return svg_source(icon, *icon_set.size).encode()


def svg_source(icon: Mapping[str, Any], width: float, height: float, *, square: bool = False) -> str:
    """An SVG file of one row of Iconify's `icons`.

    Args:
        icon: `body`, and where they differ from the set's, `left`, `top`, `width` and `height`.
        width: of the set.
        height: of the set.
        square: whether the smaller side is made as large as the other, the drawing in its middle.
    """
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", width), icon.get("height", height)
    if square and width != height:
        side = max(width, height)
        left, top = left - (side - width) / 2, top - (side - height) / 2
        width = height = side
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
