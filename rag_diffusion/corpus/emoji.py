"""Which drawing shows which Unicode character: joining emoji sets by code point, not by name."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from rag_diffusion.readers.icon_set import IconSet

VARIATION_SELECTOR = "fe0f"
_SKIN_TONE = re.compile(r"1f3f[b-f]")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What a Unicode character is called, and where it belongs."""

    title: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


def normalize_code_points(text: str) -> str:
    """Code points, `text`, in lower case, joined by `-`, without the variation selector: `2764-FE0F` -> `2764`."""
    return "-".join(point for point in text.lower().split("-") if point != VARIATION_SELECTOR)


def has_skin_tone(entity: str) -> bool:
    """Whether a sequence of code points, `entity`, holds a skin tone modifier."""
    return bool(_SKIN_TONE.search(entity))


def is_private(entity: str) -> bool:
    """Whether the first code point of `entity` lies in a private use area, so that only one set knows it."""
    first = int(entity.split("-")[0], 16)
    return 0xE000 <= first <= 0xF8FF or first >= 0xF0000


def parse_annotations(content: bytes) -> dict[str, Annotation]:
    """Read OpenMoji's table, CSV as `content`: entity -> title, tags, group, subgroup."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8")))
    return {
        normalize_code_points(row["hexcode"]): Annotation(
            title=row["annotation"],
            tags=tuple(tag.strip() for tag in row["tags"].split(",") if tag.strip()),
            group=row["group"],
            subgroup=row["subgroups"],
        )
        for row in rows
    }


class EntityResolver:
    """Names of drawings -> code points: a set's own table, then the other sets', then aliases.

    A name that the sets give to several characters resolves to the one its own set gives, else to the first
    public one; a name that nothing resolves gives None, and the caller counts it.
    """

    def __init__(self, sets: Mapping[str, IconSet]) -> None:
        self._own = {style: _names_to_entities(icon_set.chars) for style, icon_set in sets.items()}
        self._all: dict[str, set[str]] = defaultdict(set)
        self._aliases: dict[str, set[str]] = defaultdict(set)
        for style, icon_set in sets.items():
            for name, entities in self._own[style].items():
                self._all[name] |= entities
            for alias, target in icon_set.aliases.items():
                if set(target) == {"parent"}:  # an alias that flips or turns its parent draws something else
                    self._aliases[alias].add(target["parent"])
                    self._aliases[target["parent"]].add(alias)

    def resolve(self, style: str, name: str) -> str | None:
        """Entity that `name` of set `style` draws, or None."""
        candidates = self._own[style].get(name) or self._all.get(name)
        for alias in sorted(self._aliases.get(name, ())):
            candidates = candidates or self._own[style].get(alias) or self._all.get(alias)
        return min(candidates, key=lambda entity: (is_private(entity), len(entity), entity)) if candidates else None


def _names_to_entities(chars: Mapping[str, str]) -> dict[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    for code_points, name in chars.items():
        names[name].add(normalize_code_points(code_points))
    return dict(names)
