"""An Iconify package: its SVG drawings, captioned by their names."""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.readers.icon_set import IconSet, read_set, svg_of
from rag_diffusion.readers.packages import read_member
from rag_diffusion.readers.records import Item, Rejection

_SIDE = 128  # pixels with which a drawing is rendered
_OUTWARD = re.compile(r"""href\s*=\s*["'](?!\s*(#|data:))""", re.IGNORECASE)  # a file or an address elsewhere
_OPTIONAL = ("chars.json", "metadata.json")


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
        categories = json.loads(self._file("metadata.json")).get("categories", {})
        self._kinds = {name: kind for kind in sorted(categories) for name in categories[kind]}

    def __iter__(self) -> Iterator[Item | Rejection]:
        for name in sorted(self._set.icons):
            yield self._item(name, self._set.icons[name], self._set)

    def _item(self, name: str, icon: Any, icon_set: IconSet) -> Item | Rejection:
        title = name.replace("-", " ").strip()
        try:
            if icon.get("hidden"):
                return Rejection(what=name, reason="hidden icon: its set has withdrawn it")
            svg = svg_of(icon_set, icon)
            if _OUTWARD.search(str(icon["body"])):
                return Rejection(what=name, reason="unsafe SVG: it names another file")
        except (KeyError, AttributeError) as error:
            return Rejection(what=name, reason=f"does not render: {error}")
        kind = self._kinds.get(name, "")
        caption = f"an icon of {with_article(title or name)}, {icon_set.words} style"
        return Item(
            name=name,
            image=svg,
            caption=f"{caption}, {kind.lower()}" if kind else caption,
            label=title,
            style=icon_set.words,
            title=title,
            licence=icon_set.licence,
            attribution=icon_set.attribution,
            side=_SIDE,
        )

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
            raise DataError(
                f"{self._path}: expected an Iconify package with {name}, got {error!r}; fetch it with "
                "`npm pack @iconify-json/SET`"
            ) from None
