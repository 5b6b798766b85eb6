"""What data/sources/wide.yaml says of the wide corpus: which sets may be used, by whose hand, under which words."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion.errors import DataError
from rag_diffusion.readers.packages import Package

_SHOWN = 12  # names of each reason in the manifest


@dataclass
class Tally:
    """Counted rejections by reason, with a few names each for a look."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, what: str, reason: str) -> None:
        """Count one rejected drawing, `what`; what follows a colon in `reason` is told in the examples alone."""
        short = reason.split(":")[0]
        self.counts[short] += 1
        if len(self.examples[short]) < _SHOWN:
            self.examples[short].append(f"{what}{reason.removeprefix(short)}")


@dataclass(frozen=True, kw_only=True)
class SetCard:
    """Whose a set is: name in words, licence, author, house (sets by one hand)."""

    words: str
    licence: str
    attribution: str
    house: str


@dataclass(frozen=True, kw_only=True)
class WideSource:
    """data/sources/wide.yaml."""

    package: Package
    licences: tuple[str, ...]
    left_out_categories: frozenset[str]
    left_out_sets: Mapping[str, str]
    logo_sets: frozenset[str]
    house_of: Mapping[str, str]
    least_drawings: int
    least_houses: int
    colours: Mapping[str, str]
    weak_words: frozenset[str]
    synonyms: Mapping[str, Mapping[str, tuple[str, ...]]]

    @classmethod
    def read(cls, path: Path) -> WideSource:
        """Read and check the file at `path`.

        Raises:
            DataError: an entry is missing or is of another form.
        """
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            return cls(
                package=Package.parse(rows["package"]),
                licences=tuple(rows["licences"]),
                left_out_categories=frozenset(rows["left_out_categories"]),
                left_out_sets=dict(rows["left_out_sets"]),
                logo_sets=frozenset(rows["logo_sets"]),
                house_of={prefix: house for house, sets in rows["houses"].items() for prefix in sets},
                least_drawings=int(rows["least"]["drawings"]),
                least_houses=int(rows["least"]["houses"]),
                colours=dict(rows["colours"]),
                weak_words=frozenset(rows["weak_words"]),
                synonyms={
                    title: {how: tuple(map(str, words)) for how, words in row.items()}
                    for title, row in rows["synonyms"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: expected the entries of a wide source, got {error!r}; restore the file") from None

    def why_not(self, prefix: str, info: Mapping[str, Any]) -> str:
        """Why a whole set is left out, by its `prefix` and Iconify's `info`; empty where it is taken."""
        licence = info["license"].get("spdx", "none")
        if prefix in self.left_out_sets:
            return f"set left out, {self.left_out_sets[prefix]}"
        if info.get("category") in self.left_out_categories:
            return f"category left out, {info['category']}"
        return "" if licence.startswith(self.licences) and "NC" not in licence else f"licence left out, {licence}"

    def card(self, prefix: str, info: Mapping[str, Any]) -> SetCard:
        """Whose a set is, by its `prefix` and Iconify's `info`."""
        name = re.sub(r"\b(free )?icons?\b|\bsystem\b|\(.*\)", "", info["name"], flags=re.IGNORECASE)
        return SetCard(
            words=" ".join(name.split()) if re.search(r"\w", name) else info["name"],
            licence=info["license"]["spdx"],
            attribution=info["author"]["name"],
            house=self.house_of.get(prefix, prefix.split("-")[0]),
        )


def distinct_names(cards: Mapping[str, SetCard]) -> dict[str, SetCard]:
    """`cards` of which those of one name in words are called by their prefixes."""
    count = Counter(card.words.lower() for card in cards.values())
    return {
        prefix: replace(card, words=prefix.replace("-", " ").title()) if count[card.words.lower()] > 1 else card
        for prefix, card in cards.items()
    }
