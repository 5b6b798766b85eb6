"""A prompt that names several things, as one query for each of them.

"a fox and a hammer in Noto style" asks for "a fox in Noto style" and for "a hammer in Noto style"; their hits take
turns. "a bow and arrow" names one thing: a good hit of the whole text has the words of both sides.

Source: several pairs for one text, WO2024072749A1 [0046]-[0048]; the rule is this project's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    """The things that `text` names where it names several, in its order; none where it names one."""
    joints = sorted([*_AND.finditer(text), *_COMMA.finditer(text)], key=lambda joint: joint.start())
    chains = [chain for chain in _chains(text, joints) if any(_AND.fullmatch(joint.group()) for joint in chain)]
    if not chains or len(chains[0]) >= _MOST:
        return ()
    chain = chains[0]
    start, end = _start(text[: chain[0].start()]), chain[-1].end() + _length(text[chain[-1].end() :])
    borders = [start, *(place for joint in chain for place in joint.span()), end]
    phrases = [text[low:high] for low, high in zip(borders[::2], borders[1::2], strict=True)]
    named = tuple(Thing(text[:start] + phrase + text[end:], frozenset(tokenize(phrase))) for phrase in phrases)
    return named if all(thing.words for thing in named) else ()


def one_thing(parts: Sequence[Thing], captions: Sequence[str]) -> bool:
    """Whether one of the `captions`, of hits of the whole text, has all words of two of the things `parts`."""
    texts = [set(tokenize(caption)) for caption in captions[:_GOOD]]
    return any(sum(thing.words <= words for thing in parts) > 1 for words in texts)


def take_turns(hits: Sequence[Hits], top_k: int) -> Hits:
    """`top_k` hits at most: the best of each of `hits`, then the second of each, and so on; none twice."""
    rows = [[(pair_id, own, rank) for rank, pair_id in enumerate(own.pair_ids)] for own in hits]
    taken: dict[str, tuple[Hits, int]] = {}
    for turn in zip_longest(*rows):
        for pair_id, own, rank in filter(None, turn):
            if len(taken) < top_k:
                taken.setdefault(pair_id, (own, rank))
    places, first = tuple(taken.values()), hits[0] if hits else Hits(pair_ids=(), scores=(), parts={})
    calibrated = all(rank < len(own.probabilities) for own, rank in places)
    return Hits(
        pair_ids=tuple(taken),
        scores=tuple(own.scores[rank] for own, rank in places),
        parts={name: tuple(own.parts[name][rank] for own, rank in places) for name in first.parts},
        raw={name: tuple(own.raw[name][rank] for own, rank in places) for name in first.raw},
        probabilities=tuple(own.probabilities[rank] for own, rank in places) if calibrated else (),
        trouble="; ".join(own.trouble for own in hits if own.trouble),
    )


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
