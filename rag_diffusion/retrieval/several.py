"""A prompt that names several things, as one query for each of them.

"a fox and a hammer in Noto style" asks for "a fox in Noto style" and for "a hammer in Noto style"; their hits take
turns. "a bow and arrow" names one thing: a good hit of the whole text has the words of both sides.

Source: several pairs for one text, WO2024072749A1 [0046]-[0048]; the rule is this project's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from rag_diffusion.retrieval.tokens import PREPOSITIONS, tokenize
from rag_diffusion.types import Hits

_AND = re.compile(r"\s+(?:and|&|plus|next\s+to|beside|together\s+with)\s+", re.IGNORECASE)
_COMMA = re.compile(r",\s+(?=(?:an?|one|two|three|my|some)\s)", re.IGNORECASE)
_WORD = re.compile(r"\w[\w'-]*|[^\w\s]")
_DETERMINERS = frozenset({"a", "an", "the", "one", "two", "three", "my", "some"})
_ENDS = frozenset({*PREPOSITIONS, *_DETERMINERS, "that", "which", "drawn", "painted", "made", "using", "look"})
_MOST = 8  # things; a longer list is one text
_GOOD = 3  # first hits of the whole text that may show that a conjunction names one thing


@dataclass(frozen=True)
class Thing:
    """One of several things that a text names.

    Attributes:
        query: asks for it alone.
        words: its own words, as the lexical index knows them.
    """

    query: str
    words: frozenset[str]


def things(text: str) -> tuple[Thing, ...]:
    """The things that a text names where it names several, in its order; none where it names one."""
    joints = sorted([*_AND.finditer(text), *_COMMA.finditer(text)], key=lambda joint: joint.start())
    chains = [chain for chain in _chains(text, joints) if any(_AND.fullmatch(joint.group()) for joint in chain)]
    if not chains or len(chains[0]) >= _MOST:
        return ()
    chain = chains[0]
    start, end = _start(text[: chain[0].start()]), chain[-1].end() + _length(text[chain[-1].end() :])
    borders = [start, *(place for joint in chain for place in joint.span()), end]
    phrases = [text[low:high] for low, high in zip(borders[::2], borders[1::2], strict=True)]
    found = tuple(Thing(text[:start] + phrase + text[end:], frozenset(tokenize(phrase))) for phrase in phrases)
    return found if all(thing.words for thing in found) else ()


def one_thing(asked: Sequence[Thing], captions: Sequence[str]) -> bool:
    """Whether one of the captions, of hits of the whole text, has all words of two of the things."""
    texts = [set(tokenize(caption)) for caption in captions[:_GOOD]]
    return any(sum(thing.words <= words for thing in asked) > 1 for words in texts)


def take_turns(hits: Sequence[Hits], top_k: int) -> Hits:
    """The best hit of each, then the second of each, and so on; none twice."""
    rows = [
        [(name, score, _at(one.parts, rank), _at(one.raw, rank)) for rank, (name, score) in
         enumerate(zip(one.pair_ids, one.scores, strict=True))]
        for one in hits
    ]  # fmt: skip
    taken: dict[str, tuple[float, dict[str, float], dict[str, float]]] = {}
    for turn in zip_longest(*rows):
        for name, score, parts, raw in filter(None, turn):
            if len(taken) < top_k:
                taken.setdefault(name, (score, parts, raw))
    names, kinds = (hits[0].parts, hits[0].raw) if hits else ({}, {})
    return Hits(
        pair_ids=tuple(taken),
        scores=tuple(score for score, _, _ in taken.values()),
        parts={key: tuple(parts[key] for _, parts, _ in taken.values()) for key in names},
        raw={key: tuple(raw[key] for _, _, raw in taken.values()) for key in kinds},
    )


def _at(values: Mapping[str, tuple[float, ...]], rank: int) -> dict[str, float]:
    return {key: of[rank] for key, of in values.items()}


def _chains(text: str, joints: Sequence[re.Match[str]]) -> list[list[re.Match[str]]]:
    """Joints between which nothing but a phrase stands."""
    chains: list[list[re.Match[str]]] = [[joint] for joint in joints[:1]]
    for last, joint in pairwise(joints):
        between = text[last.end() : joint.start()]
        if _length(between) == len(between):
            chains[-1].append(joint)
        else:
            chains.append([joint])
    return chains


def _start(text: str) -> int:
    """Where the phrase begins that a text ends with."""
    start = len(text)
    for word in reversed(list(_WORD.finditer(text))):
        if word.group().lower() in _DETERMINERS:
            return word.start()
        if _ends(word):
            break
        start = word.start()
    return start


def _length(text: str) -> int:
    """Length of the phrase that a text begins with."""
    words = list(_WORD.finditer(text))
    if words and words[0].group().lower() in _DETERMINERS:
        words = words[1:]
    return next((len(text[: word.start()].rstrip()) for word in words if _ends(word)), len(text.rstrip()))


def _ends(word: re.Match[str]) -> bool:
    return word.group().lower() in _ENDS or not (word.group()[0].isalnum() or word.group()[0] == "_")
