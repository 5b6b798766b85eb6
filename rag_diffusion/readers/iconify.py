"""Packages of Iconify, of one set or of all of them: SVG drawings, captioned by their names."""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.layout import SCRATCH
from rag_diffusion.readers.addresses import npm_address
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.readers.icon_set import IconSet, read_set, set_in_one, svg_of
from rag_diffusion.readers.packages import fetch_named, read_member, read_members
from rag_diffusion.readers.records import Item, Reader, Rejection

_SIDE = 128  # pixels with which a drawing is rendered
_OUTWARD = re.compile(r"""href\s*=\s*["'](?!\s*(#|data:))""", re.IGNORECASE)  # a file or an address elsewhere
_OPTIONAL = ("chars.json", "metadata.json")
ALL_SETS = "@iconify/json"  # the package of all sets
_SET_FILE, _ANY_SET = re.compile(r"json/[^/]+\.json"), re.compile(r"json/[^/]+\.json|icons\.json")
_FETCH = f"fetch it with `npm pack @iconify-json/SET` or `npm pack {ALL_SETS}`"


class IconifyReader:
    """Icons of one set, by name.

    Args:
        path: what `npm pack` of `@iconify-json/...` wrote, or the folder unpacked.

    Raises:
        DataError: no such package, or a file of it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._set = read_set(self._file, style=path.name)
        self._kinds = _kinds(json.loads(self._file("metadata.json")).get("categories", {}))

    def __iter__(self) -> Iterator[Item | Rejection]:
        for name in sorted(self._set.icons):
            yield _item(name, name, self._set, self._kinds)

    def _file(self, name: str) -> bytes:
        """One file of the package; an optional one that is missing is an empty object."""
        try:
            if not self._path.is_dir():
                return read_member(self._path, name)
            folder = next(
                folder for folder in (self._path, self._path / "package") if (folder / "icons.json").is_file()
            )
            return (folder / name).read_bytes()
        except (DataError, OSError, StopIteration, tarfile.TarError, EOFError, zlib.error) as error:
            if name in _OPTIONAL:
                return b"{}"
            raise DataError(f"{self._path}: expected an Iconify package with {name}, got {error!r}; {_FETCH}") from None


class IconifySetsReader:
    """Icons of all sets of the package `@iconify/json`, set by set: each is named `SET/NAME`.

    Args:
        path: what `npm pack @iconify/json` wrote, or the folder unpacked.

    Raises:
        DataError: there is no set in it, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            first = next(self._files(), None)
        except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected {ALL_SETS} or one set of it, got {error!r}; {_FETCH}") from None
        if first is None:
            raise DataError(f"{path}: expected an Iconify package with json/SET.json or icons.json, got none; {_FETCH}")

    def __iter__(self) -> Iterator[Item | Rejection]:
        for name, content in self._files():
            try:
                data = json.loads(content)
                icon_set = set_in_one(data, name)
                kinds = _kinds(data.get("categories", {}))
            except (DataError, ValueError, AttributeError, TypeError, RecursionError) as error:
                yield Rejection(what=name, reason=f"damaged set: {error}")
                continue
            if not icon_set.licence:
                yield Rejection(what=name, reason="set without a licence: its info names none")
                continue
            for icon in sorted(icon_set.icons):
                yield _item(f"{icon_set.style}/{icon}", icon, icon_set, kinds)

    def _files(self) -> Iterator[tuple[str, bytes]]:
        if not self._path.is_dir():
            yield from read_members(self._path, lambda name: _SET_FILE.fullmatch(name) is not None)
            return
        package = self._path / "package"
        for path in sorted(((package if package.is_dir() else self._path) / "json").glob("*.json")):
            yield f"json/{path.name}", path.read_bytes()


def open_iconify(path: Path | str, *, cache: Path = Path(SCRATCH, "packages")) -> Reader:
    """A reader of a package of Iconify: of one set, or of all.

    Args:
        path: the archive, the folder unpacked, or an address `npm:@iconify/json[@VERSION]`, which npm fetches.
        cache: folder for archives that are fetched.

    Raises:
        DataError: no such package, or a file of it is missing or damaged.
    """
    if isinstance(path, str):
        path = fetch_named(*npm_address(path), cache)
    alone = any((folder / "icons.json").is_file() for folder in (path, path / "package"))
    if path.is_file():
        try:
            names = (name for name, _ in read_members(path, lambda name: bool(_ANY_SET.fullmatch(name))))
            alone = next(names, "icons.json") == "icons.json"
        except (OSError, tarfile.TarError, EOFError, zlib.error):
            alone = True  # whose reader says what is the matter
    return IconifyReader(path) if alone else IconifySetsReader(path)


def _kinds(categories: Mapping[str, Any]) -> dict[str, str]:
    """Category of each icon that has one; of several the last by the alphabet."""
    return {name: kind for kind in sorted(categories) for name in categories[kind]}


def _item(what: str, name: str, icon_set: IconSet, kinds: Mapping[str, str]) -> Item | Rejection:
    """The item of an icon.

    Args:
        what: its name among those of the reader.
        name: its name in its set.
        icon_set: the set.
        kinds: category of each icon that has one.
    """
    icon, title = icon_set.icons[name], name.replace("-", " ").strip()
    try:
        if icon.get("hidden"):
            return Rejection(what=what, reason="hidden icon: its set has withdrawn it")
        svg = svg_of(icon_set, icon)
        if _OUTWARD.search(str(icon["body"])):
            return Rejection(what=what, reason="unsafe SVG: it names another file")
    except (KeyError, AttributeError) as error:
        return Rejection(what=what, reason=f"does not render: {error}")
    kind = kinds.get(name, "")
    caption = f"an icon of {with_article(title or name)}, {icon_set.words} style"
    return Item(
        name=what,
        image=svg,
        caption=f"{caption}, {kind.lower()}" if kind else caption,
        label=title,
        style=icon_set.words,
        title=title,
        licence=icon_set.licence,
        attribution=icon_set.attribution,
        side=_SIDE,
    )
