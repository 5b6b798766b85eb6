"""What the name of a drawing says: the thing, the manner within its set, and the size it was drawn for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# Manners that a set may have without declaring them: believed only where the set has the thing without them, too.
_UNDECLARED = ("outline", "outlined", "filled", "fill", "solid", "duotone", "twotone")
# More of them, believed where a good part of the set's names end so.
_FREQUENT = ("line", "light", "bold", "thin", "linear", "sharp", "round", "rounded", "broken", *_UNDECLARED)
_SIZES = frozenset(map(str, (8, 10, 12, 14, 15, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 64, 96)))
_SIZE = re.compile(r"(\d+)(px)?")
_NUMBER = re.compile(r"\d{1,2}")
_NUMBERED = re.compile(r"([a-z]{3,})(\d{1,2})")
_SIZED_SHARE = 0.3  # of its names end in a size: then such an ending is a size, else the number of a variant
_FREQUENT_SHARE = 0.15
_FEWEST = 8  # names of a set that end in an undeclared manner, at least
# Words whose number is what they show.
_COUNTING = frozenset({
    "age", "backward", "bars", "battery", "cellular", "channel", "chess", "clock", "column", "columns", "counter",
    "counting", "dice", "die", "digit", "domino", "exposure", "filter", "forward", "grid", "h", "head", "heading",
    "hexagon", "hour", "hours", "layout", "letter", "level", "looks", "minus", "num", "number", "numbers", "numeric",
    "player", "plus", "rating", "replay", "rewind", "roman", "rows", "seek", "signal", "skip", "speed", "step",
    "tallymark", "time", "timer", "top", "volume", "wifi", "zodiac",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A name taken apart.

    Attributes:
        entity: the thing, words joined by `-`, e.g. `coffee-cup`.
        stem: the thing and the number of its variant: drawings of one stem and manner differ in size alone.
        manner: as the set declares it, without sizes, e.g. `bold-duotone`; empty for the set's only or plain one.
        words: the manner in words, e.g. `bold duotone`.
        size: pixels it was drawn for, 0 where the name has none.
    """

    entity: str
    stem: str
    manner: str
    words: str
    size: int


class Manners:
    """The manners of one set.

    Args:
        names: all names of the set.
        suffixes: manner by ending, as Iconify declares them; the empty ending is the plain manner.
        prefixes: manner by beginning.
    """

    def __init__(self, names: Collection[str], suffixes: Mapping[str, str], prefixes: Mapping[str, str]) -> None:
        self._names = frozenset(names)
        self._suffixes, self._prefixes = dict(suffixes), dict(prefixes)
        endings = Counter(name.rpartition("-")[2] for name in names if "-" in name)
        often = [word for word in _FREQUENT if endings[word] >= _FREQUENT_SHARE * len(names)]
        self._often = bool(often and not suffixes and not prefixes)
        if self._often:
            self._suffixes = {word: word.capitalize() for word in often} | {"": ""}
        self._undeclared = [word for word in _UNDECLARED if word not in self._suffixes and endings[word] >= _FEWEST]
        self._by_length = sorted(filter(None, self._suffixes), key=len, reverse=True)
        sized = sum(count for ending, count in endings.items() if ending.removesuffix("px") in _SIZES)
        self._sized = sized >= _SIZED_SHARE * max(len(names), 1)

    def read(self, name: str) -> Reading:
        """Take a drawing's `name` apart."""
        stem, prefix = self._without_prefix(name)
        stem, suffix = self._without_suffix(stem)
        manner = [*prefix.split("-"), *suffix.split("-")]
        stem, size = self._without_size(stem)
        size = max([size, *(_pixels(part) for part in manner)])
        manner = [part for part in manner if part and not _pixels(part)]
        return Reading(
            entity=without_number(stem),
            stem=stem,
            manner="-".join(manner),
            words=self._in_words(manner, prefix, suffix),
            size=size,
        )

    def _without_prefix(self, name: str) -> tuple[str, str]:
        for prefix in sorted(filter(None, self._prefixes), key=len, reverse=True):
            if name.startswith(prefix + "-"):
                return name.removeprefix(prefix + "-"), prefix
        return name, ""

    def _without_suffix(self, name: str) -> tuple[str, str]:
        for suffix in self._by_length:
            base = name.removesuffix("-" + suffix)
            if base != name and ("" not in self._suffixes or self._often or self._has(base, self._by_length)):
                return base, suffix
        for suffix in self._undeclared:
            base = name.removesuffix("-" + suffix)
            if base != name and self._has(base, ()):
                return base, suffix
        return name, ""

    def _has(self, base: str, others: Collection[str]) -> bool:
        """Whether the set draws a thing plainly, or in two manners at least."""
        return base in self._names or sum(f"{base}-{other}" in self._names for other in others) > 1

    def _without_size(self, name: str) -> tuple[str, int]:
        base, _, last = name.rpartition("-")
        size = last.removesuffix("px")
        if base and size in _SIZES and (self._sized or last.endswith("px")):
            return base, int(size)
        return name, 0

    def _in_words(self, manner: list[str], prefix: str, suffix: str) -> str:
        declared = " ".join(filter(None, (self._prefixes.get(prefix), self._suffixes.get(suffix))))
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", declared) or " ".join(manner)
        words = [word for word in text.replace("-", " ").lower().split() if not re.fullmatch(r"\d+(px|x\d+)?", word)]
        return " ".join(words)


def without_number(stem: str) -> str:
    """A `stem` without what only tells drawings apart: `cup-2` -> `cup`, `folder2-open` -> `folder-open`.

    What counts or numbers something keeps its number.
    """
    parts = stem.split("-")
    if _COUNTING.intersection(part.rstrip("0123456789") for part in parts):
        return stem
    kept = [_NUMBERED.sub(r"\1", part) if _NUMBERED.fullmatch(part) else part for part in parts]
    while len(kept) > 1 and _NUMBER.fullmatch(kept[-1]):
        kept.pop()
    return "-".join(kept)


def _pixels(part: str) -> int:
    match = _SIZE.fullmatch(part)
    return int(match[1]) if match else 0
