"""The drawings of one package with every set of Iconify, and why others of its drawings are left out."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_diffusion.corpus.manners import Manners, Reading
from rag_diffusion.corpus.wide_source import SetCard, Tally, WideSource, distinct_names
from rag_diffusion.errors import DataError
from rag_diffusion.readers.icon_set import svg_source
from rag_diffusion.readers.packages import read_members

_TRADEMARK = re.compile(r"(brand|logo|logotype|flag|flags)-.*|.*-(logo|logotype|brand)s?|.*\bflag-(of|for)\b.*")
_TRADEMARK_CATEGORY = re.compile(
    r"\b(brands?|logos?|flags?|social ?medias?\w*|developer ?communities)\b", re.IGNORECASE
)
_UNDRAWN = (
    ("<image", "bitmap"),
    ("<animate", "animated"),
    ("<set ", "animated"),
    ("<text", "text"),
    ("<script", "script"),
)
_LOGO_SETS = 2  # sets of logos that must know a name before it counts as a trademark
_USUAL_SIZE = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One drawing before it is joined and rendered.

    Attributes:
        prefix: its set.
        name: its name there.
        aliases: other names that its set has for it.
        code_points: what the set's table of characters says it is.
        reading: its name taken apart.
        category: of the drawing within the set, else of the set.
        svg: the file, `currentColor` still in it.
        monochrome: whether its colour may be chosen.
    """

    prefix: str
    name: str
    aliases: tuple[str, ...]
    code_points: tuple[str, ...]
    reading: Reading
    category: str
    svg: str
    monochrome: bool

    @property
    def style(self) -> str:
        """The manner among those of all sets, e.g. `ph-duotone`."""
        return f"{self.prefix}-{self.reading.manner}" if self.reading.manner else self.prefix

    @property
    def where(self) -> str:
        """Set and name, e.g. `ph/acorn-duotone`."""
        return f"{self.prefix}/{self.name}"


def read_drawings(
    source: WideSource, archive: Path, prefixes: Collection[str], tally: Tally
) -> tuple[list[Drawing], dict[str, SetCard]]:
    """Every drawing that may be taken, one size of each.

    Args:
        source: what is left out.
        archive: the package.
        prefixes: sets that are asked for; none: all of them.
        tally: where rejections are counted.

    Returns:
        Drawings by set and name, and the card of each set that has one.

    Raises:
        DataError: a set that was asked for is not there, or may not be used.
    """
    drawings: list[Drawing] = []
    cards: dict[str, SetCard] = {}
    logos: Counter[str] = Counter()
    seen: set[str] = set()
    for _, content in read_members(archive, lambda name: bool(re.fullmatch(r"json/[^/]+\.json", name))):
        data = json.loads(content)
        prefix, info = data["prefix"], data["info"]
        seen.add(prefix)
        why_not = source.why_not(prefix, info)
        if prefix in source.logo_sets:
            logos.update(list(data["icons"]))
        if why_not and prefix in prefixes:
            raise DataError(f"corpus.iconify.sets: expected sets that may be used, got {prefix} ({why_not}); remove it")
        if prefixes and prefix not in prefixes:
            continue
        if why_not:
            for name in data["icons"]:
                tally.add(f"{prefix}/{name}", why_not)
            continue
        cards[prefix] = source.card(prefix, info)
        drawings += _drawings(data, tally)
    if missing := sorted(set(prefixes) - seen):
        raise DataError(f"corpus.iconify.sets: expected prefixes of {source.package.name}, got {missing}; correct them")
    drawings.sort(key=lambda drawing: drawing.where)
    return [drawing for drawing in drawings if not _is_logo(drawing, logos, tally)], distinct_names(cards)


def _is_logo(drawing: Drawing, logos: Counter[str], tally: Tally) -> bool:
    if logos[drawing.reading.stem] < _LOGO_SETS:
        return False
    tally.add(drawing.where, "name of a logo")
    return True


def _drawings(data: Mapping[str, Any], tally: Tally) -> Iterator[Drawing]:
    prefix, icons = data["prefix"], data["icons"]
    manners = Manners(icons, data.get("suffixes") or {}, data.get("prefixes") or {})
    categories = {name: category for category, names in data.get("categories", {}).items() for name in names}
    aliases, chars = defaultdict(list), defaultdict(list)
    for alias, target in data.get("aliases", {}).items():
        if not {"rotate", "hFlip", "vFlip"} & set(target):
            aliases[target["parent"]].append(alias)
    for points, name in data.get("chars", {}).items():
        chars[name].append(points)
    readings = _one_size(prefix, {name: manners.read(name) for name in sorted(icons)}, tally)
    for name, reading in readings.items():
        icon, category = icons[name], categories.get(name, "")
        reason = _why_not(icon, reading.stem, category)
        if reason:
            tally.add(f"{prefix}/{name}", reason)
            continue
        yield Drawing(
            prefix=prefix,
            name=name,
            aliases=tuple(sorted(aliases[name])),
            code_points=tuple(sorted(point for point in chars[name] if int(point.split("-")[0], 16) > 0xFF)),
            reading=reading,
            category=(category or data["info"].get("category") or "icons").lower(),
            svg=svg_source(icon, data.get("width", 16), data.get("height", 16), square=True),
            monochrome="currentColor" in icon["body"] and not data["info"].get("palette", False),
        )


def _one_size(prefix: str, readings: dict[str, Reading], tally: Tally) -> dict[str, Reading]:
    best: dict[tuple[str, str], str] = {}
    for name, reading in readings.items():
        key = (reading.stem, reading.manner)
        best[key] = min((best.get(key, name), name), key=lambda other: _distance(readings[other].size))
    for name in sorted(set(readings) - set(best.values())):
        tally.add(f"{prefix}/{name}", "second size of a drawing")
    kept = set(best.values())
    return {name: reading for name, reading in readings.items() if name in kept}


def _distance(size: int) -> tuple[int, int]:
    return abs((size or _USUAL_SIZE) - _USUAL_SIZE), -size


def _why_not(icon: Mapping[str, Any], stem: str, category: str) -> str:
    if icon.get("hidden"):
        return "withdrawn by its set"
    if _TRADEMARK.fullmatch(stem) or _TRADEMARK_CATEGORY.search(category):
        return "logo or flag"
    return next((f"body holds {what}" for mark, what in _UNDRAWN if mark in icon["body"]), "")
