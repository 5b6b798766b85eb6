"""Which drawings show an entity that must not be trained on: by the words of their names, and by code points."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from rag_diffusion.corpus.emoji import is_private, normalize_code_points

_WORD = re.compile(r"[a-z]+|[0-9]+")
_HEX = re.compile(r"(?:emoji|unicode)?[-_]?(?:uni|u|e)?[-_+]?([0-9a-f]{4,6}(?:[-_][0-9a-f]{4,6})*)")
_IRREGULAR = {
    "children": "child", "feet": "foot", "geese": "goose", "men": "man", "mice": "mouse", "teeth": "tooth",
    "women": "woman", "oxen": "ox", "dice": "die", "people": "person",
}  # fmt: skip
_LEAST_PART = 3  # letters of a part of a compound word
_LEAST_WITHIN = 6  # letters of a word that is found anywhere within another one


def words_of(name: str) -> list[str]:
    """Words and numbers of a `name` or title, in lower case."""
    return _WORD.findall(_plain(name).replace("'s ", " ").replace("'", ""))


def _plain(text: str) -> str:
    """Small letters without accents: `Piñata` -> `pinata`."""
    apart = unicodedata.normalize("NFKD", text.lower().replace("’", "'"))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _forms(word: str) -> set[str]:
    """What `word` may be the plural of, and itself: two words are one when they share a form."""
    singulars = {word, _IRREGULAR.get(word, word)}
    if len(word) > _LEAST_PART and word.endswith("s") and not word.endswith("ss"):
        singulars.add(word[:-1])
        if word.endswith("es"):
            singulars.add(word[:-2])
        if word.endswith("ies"):
            singulars.add(word[:-3] + "y")
        if word.endswith("ves"):
            singulars |= {word[:-3] + "f", word[:-3] + "fe"}
    return singulars


@dataclass(frozen=True, kw_only=True)
class EntityNames:
    """What an entity is called.

    Attributes:
        full: titles and names that sets give it, e.g. `hot beverage`.
        also: other words for it that tell it wherever they stand, e.g. `teacup`.
        hints: words that tell it where a name is just that, e.g. `coffee`.
    """

    full: tuple[str, ...]
    also: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HeldOutMatch:
    """A held-out entity that a name tells of.

    Attributes:
        entity: its code points.
        exact: whether the name is its title, or another full name of it.
        alone: whether the name tells of nothing else: `taco` and `old-taco`, but neither `taco-truck` nor a hint, which
            may mean something else in one set or another.
    """

    entity: str
    exact: bool
    alone: bool


class HeldOutNames:
    """Finds the held-out entity that a drawing shows by one of its names.

    Args:
        names: held-out entity (code points) -> what it is called.
        weak: words left aside where a title has others.
        vocabulary: words of all drawings; a compound word is taken apart into them.
    """

    def __init__(self, names: Mapping[str, EntityNames], weak: Collection[str], vocabulary: Collection[str]) -> None:
        self._entities = frozenset(names)
        self._weak, self._vocabulary = frozenset(weak), frozenset(vocabulary)
        self._canonical: dict[str, str] = {}
        self._rules: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)
        self._exact: dict[str, tuple[str, bool]] = {}
        for entity in sorted(names):
            for title in (*names[entity].full, *names[entity].also):
                self._add(title, entity)
        for entity in sorted(names):
            for title in names[entity].full:
                self._exact[self._key(words_of(title))] = (entity, True)
        for entity in sorted(names):
            for hint in names[entity].hints:
                self._exact.setdefault(self._key(words_of(hint)), (entity, False))
        self._words = frozenset(form for rules in self._rules.values() for rule, _ in rules for form in rule)
        self._parts_of: dict[str, frozenset[str]] = {}

    def _add(self, title: str, entity: str) -> None:
        words = words_of(title)
        strong = [word for word in words if word not in self._weak] or words
        if strong:
            rule = frozenset(map(self._singular, strong))
            self._rules[max(rule, key=lambda word: (len(word), word))].append((rule, entity))

    def by_words(self, names: Iterable[str]) -> HeldOutMatch | None:
        """The held-out entity whose content words stand in one of `names`, in any order; or None."""
        matches: list[HeldOutMatch] = []
        for name in names:
            words = words_of(name)
            exact = self._exact.get(self._key(words))
            if exact:
                matches.append(HeldOutMatch(entity=exact[0], exact=exact[1], alone=exact[1]))
            held = self._held_out_words(words)
            for rule, entity in (entry for word in sorted(held) for entry in self._rules.get(word, ())):
                if rule <= held:
                    alone = all(word in self._weak or _forms(word) & rule for word in words)
                    matches.append(HeldOutMatch(entity=entity, exact=False, alone=alone))
        return min(matches, key=lambda match: (not match.exact, not match.alone, match.entity), default=None)

    def _held_out_words(self, words: list[str]) -> frozenset[str]:
        """Held-out words that a name holds: as words, as plurals, as parts of compounds, or torn apart."""
        held: set[str] = set()
        for word in words:
            if word not in self._parts_of:
                self._parts_of[word] = frozenset(self._parts(word))
            held |= self._parts_of[word]
        for torn in map("".join, pairwise(words)):
            held |= _forms(torn) & self._words
        return frozenset(held)

    def _parts(self, word: str) -> set[str]:
        parts = _forms(word) & self._words
        for cut in range(_LEAST_PART, len(word) - _LEAST_PART + 1):
            head, tail = word[:cut], word[cut:]
            parts |= _forms(head) & self._words if tail in self._vocabulary else set()
            parts |= _forms(tail) & self._words if head in self._vocabulary else set()
        for start in range(len(word)):
            for end in range(start + _LEAST_WITHIN, len(word) + 1):
                parts |= {word[start:end]} & self._words
        return parts

    def by_code_point(self, names: Iterable[str], code_points: Iterable[str] = ()) -> str | None:
        """The held-out entity whose code points are a drawing's name, or stand in its set's table for it; or None.

        Args:
            names: of the drawing.
            code_points: of the table.
        """
        for text in [*names, *code_points]:
            match = _HEX.fullmatch(text.lower())
            points = normalize_code_points(match[1].replace("_", "-")) if match else ""
            if points in self._entities and not is_private(points):
                return points
        return None

    def _key(self, words: Iterable[str]) -> str:
        """A name without gaps, each word in its singular, so that `alarm clocks` is `alarmclock`."""
        return "".join(map(self._singular, words))

    def _singular(self, word: str) -> str:
        if word not in self._canonical:
            known = [form for form in _forms(word) if form in self._vocabulary] or [word]
            self._canonical[word] = min(known, key=lambda form: (len(form), form))
        return self._canonical[word]
