"""What words and cosines say for a hit: the features of a calibrated score.

A text is cut into phrases at function words, punctuation and words of style. "a sticker for my laptop that shows an
oncoming taxi, Noto style" has the phrases "sticker", "laptop" and "oncoming taxi"; "laptop" stands behind a
preposition, so that it is where or what for, not what is asked. Each word counts as much as its idf, and one that no
caption has as much as the rarest; but one before the last word of its phrase is taken for an adjective and counts
`_ADJECTIVE` of that: "a lucky shamrock" is a shamrock, "an apple blorptang" may be anything. So does a colour of a
caption that the query does not ask for: "a red apple" is an apple. The phrase rules are those of English; in another
language a text is one phrase between its punctuation marks.

Shapes: R hits of one query, F features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag_diffusion.arrays import Doubles
from rag_diffusion.retrieval.fusion import POOL
from rag_diffusion.retrieval.lexical import Lexical
from rag_diffusion.retrieval.tokens import STOP_WORDS, tokenize

FEATURES = (
    "caption_share",  # of the caption's words, by idf, that the query has
    "phrase_share",  # of the words of the query's phrases that the caption shares a word with, those that it has
    "circumstance_share",  # of the shared words, those that stand behind a preposition
    "cosine_deviations",  # standard deviations of text_to_text above the mean of the query's best `POOL`
    "caption_phrase",  # caption_share times phrase_share
    "caption_share_squared",
    "phrase_share_squared",
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JOINTS = frozenset({"and", "of", "with"})  # inside of a phrase: "umbrella with rain drops"
_CIRCUMSTANCE = _words("above around at behind below beside by during for from in inside into near on over to under")
_DETERMINERS = _words("a an her his its my one our some that the their this three two your")
_SIZES = _words("big huge large little small tiny")
_COLORS = frozenset(tokenize("black blue brown golden gray green grey orange pink purple red white yellow"))
_FUNCTION_WORDS = _words(
    "am any are be been being can could did do does done draw drawing drawn draws had has have having he how i if is "
    "like likes look looking looks made make makes making may me might must need needs paint painted painting paints "
    "please shall she should show showing shown shows use used using want wants was we were what when where who why "
    "will would you"
)
_BORDERS = (STOP_WORDS | _FUNCTION_WORDS | _DETERMINERS | _CIRCUMSTANCE | _SIZES) - _JOINTS
_PIECES = re.compile(r"\w+|[^\w\s]")
_ADJECTIVE = 0.1  # weight of a word that no caption has, before the last of its phrase
_LEAST = 0.05  # share of the rarest word's idf that every word has
_SILENT = frozenset("-'’“”\"‘„«»")  # marks inside of a phrase


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """Words of a query between two borders.

    Attributes:
        words: as the lexical index knows them.
        head: those of them that stand last.
        circumstance: whether they stand behind a preposition: where, when or what for.
    """

    words: frozenset[str]
    head: frozenset[str]
    circumstance: bool


def phrases(text: str, style_words: Iterable[str] = ()) -> list[Phrase]:
    """The phrases of a text, in its order.

    Args:
        text: a query.
        style_words: tokens that name a style, which are borders.

    Returns:
        Those that have a word.
    """
    borders, parts, circumstance = frozenset(style_words), list[Phrase](), False
    words, head = list[str](), frozenset[str]()
    for piece in _PIECES.findall(text):
        word = piece.lower()
        if word in _SILENT or word in _JOINTS:
            continue
        tokens = tokenize(piece) if piece[0].isalnum() else []
        if tokens and word not in _BORDERS and borders.isdisjoint(tokens):
            words, head = words + tokens, frozenset(tokens)
            continue
        if words:
            parts.append(Phrase(words=frozenset(words), head=head, circumstance=circumstance))
            words = []
        circumstance = word in _CIRCUMSTANCE or (circumstance and word in _DETERMINERS | _SIZES)
    return parts + [Phrase(words=frozenset(words), head=head, circumstance=circumstance)] * bool(words)


def style_tokens(style_words: Mapping[str, str]) -> frozenset[str]:
    """Tokens of the names of styles, and the word itself.

    Args:
        style_words: style to the words that name it, see `Pairs.style_words`.
    """
    texts = ("style", *style_words, *style_words.values())
    return frozenset(token for text in texts for token in tokenize(text))


class Evidence:
    """Features of the hits of queries.

    Args:
        lexical: index over the captions; gives each word's idf.
        style_words: style to the words that name it; they say nothing of what is shown.
    """

    def __init__(self, lexical: Lexical, style_words: Mapping[str, str]) -> None:
        self._lexical, self._style = lexical, style_tokens(style_words)
        self._unknown = math.log((len(lexical) + 0.5) / 0.5)  # idf of a word that no caption has

    def features(self, query: str, captions: Sequence[str], cosines: Doubles, pool: Doubles) -> Doubles:
        """The features of hits.

        Args:
            query: the text.
            captions: R, of the hits.
            cosines: (R,) of query and captions.
            pool: cosines of all candidates, the `POOL` best of the corpus among them.

        Returns:
            (R, F) in the order of `FEATURES`.
        """
        weights, parts = self._weights(query, unknown=True), phrases(query, self._style)
        best = np.partition(pool, -POOL)[-POOL:] if len(pool) > POOL else pool
        deviations = (cosines - best.mean()) / (best.std() + 1e-6) if len(pool) else cosines
        shares = np.asarray([self._shares(weights, parts, caption) for caption in captions]).reshape(-1, 3)
        caption, phrase = shares[:, 0], shares[:, 1]
        return np.column_stack([shares, deviations, caption * phrase, caption**2, phrase**2])

    def information(self, query: str) -> float:
        """Idf of the distinct words of `query` added up; a word that no caption has counts as the rarest does."""
        return sum(self._weights(query, unknown=True).values())

    def _shares(self, query: Mapping[str, float], parts: Sequence[Phrase], caption: str) -> tuple[float, float, float]:
        """caption_share, phrase_share, circumstance_share."""
        weights = self._weights(caption)
        if not _COLORS.isdisjoint(weights):
            heads = {word for phrase in phrases(caption, self._style) for word in phrase.head}
            weights |= {word: _ADJECTIVE * weights[word] for word in _COLORS & weights.keys() - heads - query.keys()}
        asked_for = shared = circumstance = 0.0
        for phrase in parts:
            own = sum(query.get(word, 0.0) for word in phrase.words if word in weights)
            if own > 0:
                asked_for += sum(self._asked(query, phrase).values())
                shared += own
                circumstance += own * phrase.circumstance
        matched = sum(weight for word, weight in weights.items() if word in query)
        total = sum(weights.values())
        return (
            matched / total if total else 0.0,
            shared / asked_for if asked_for else 0.0,
            circumstance / shared if shared else 0.0,
        )

    def _asked(self, query: Mapping[str, float], phrase: Phrase) -> dict[str, float]:
        """The words of a phrase with their weights; unknown ones before the last are taken for adjectives."""
        weights = {word: query[word] for word in phrase.words if word in query}
        adjectives = [word for word in weights if weights[word] == self._unknown and word not in phrase.head]
        return weights | dict.fromkeys(adjectives, _ADJECTIVE * self._unknown)

    def _weights(self, text: str, *, unknown: bool = False) -> dict[str, float]:
        """Idf of the words of a text but those of style and function, also those that no caption has if `unknown`."""
        known = self._lexical.explain(text)
        if unknown:
            known = dict.fromkeys(tokenize(text), self._unknown) | known
        least = _LEAST * self._unknown  # BM25 has zero and less for words that half of the captions have
        silent = self._style | _FUNCTION_WORDS
        return {word: max(weight, least) for word, weight in known.items() if word not in silent}
