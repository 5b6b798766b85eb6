"""What must be neither asked for nor retrieved: words, and concepts that are told by vectors.

Shapes: N pairs, Q texts, C concepts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from rag_diffusion.arrays import Floats, Mask
from rag_diffusion.errors import BlockedError
from rag_diffusion.retrieval.tokens import tokenize
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.vectors import Rows

if TYPE_CHECKING:
    from rag_diffusion.config import SafetyConfig

Embed = Callable[[Sequence[str]], Floats]
_COLUMNS = ("caption", "title", "entity", "category")  # of a pair, that are looked at for words
_AT_ONCE = 1 << 16  # pairs


@dataclass(frozen=True, kw_only=True)
class Blocklist:
    """Prompts and pairs that are left out.

    Attributes:
        words: words or phrases; plurals, accents and capitals make no difference.
        concepts: in words; what is like one of them is left out.
        cosine: of vectors of a text and a concept, from which on they are alike. The embedded encoder gives a pistol
            .47 to weapons, and a red apple .06.

    Example:
        >>> from rag_diffusion.retrieval.blocklist import Blocklist
        >>> Blocklist(words=("water pistol",)).reasons(["Two Water Pistols", "a glass of water"])
        ["has the blocked word 'water pistol'", '']
        >>> Blocklist(concepts=("weapons",)).reasons(["a rifle", "a red apple"])
        ["is like the blocked concept 'weapons' (cosine 0.57)", '']
    """

    words: tuple[str, ...] = ()
    concepts: tuple[str, ...] = ()
    cosine: float = 0.45

    @classmethod
    def from_config(cls, config: SafetyConfig) -> Blocklist:
        """As `config`, `safety` in params.yaml, says."""
        return cls(words=tuple(config.words), concepts=tuple(config.concepts), cosine=config.concept_cosine)

    def __bool__(self) -> bool:
        return bool(self.words or self.concepts)

    def check(self, texts: Sequence[str]) -> None:
        """Refuse a prompt, or what is said of a neighbor by hand.

        Args:
            texts: Q.

        Raises:
            BlockedError: one is blocked, with the reason.
        """
        for text, reason in zip(texts, self.reasons(texts), strict=True):
            if reason:
                raise BlockedError(f"{text[:100]!r} {reason}, see `safety` in params.yaml; ask for another thing")

    def reasons(self, texts: Sequence[str], embed: Embed | None = None) -> list[str]:
        """Why each of Q texts is blocked, in words; empty where one is not.

        Args:
            texts: Q.
            embed: Q texts to (Q, D) unit vectors; None takes the sentence encoder that this package comes with.
        """
        reasons = [f"has the blocked word {word!r}" if (word := self._word_in(text)) else "" for text in texts]
        if self.concepts and texts:
            embed = embed or sentence_vectors
            cosines = embed(list(texts)) @ embed(list(self.concepts)).T
            for row, values in enumerate(cosines):
                nearest = int(values.argmax())
                if values[nearest] >= self.cosine and not reasons[row]:
                    concept = self.concepts[nearest]
                    reasons[row] = f"is like the blocked concept {concept!r} (cosine {values[nearest]:.2f})"
        return reasons

    def mask(self, pairs: Pairs, vectors: Rows, embed: Embed) -> Mask:
        """(N,) which pairs may be retrieved.

        Args:
            pairs: N.
            vectors: (N, D) unit vectors of their captions.
            embed: of the encoder that made these.
        """
        passing = np.ones(len(pairs), dtype=bool)
        for column in _COLUMNS if self.words else ():
            texts, places = np.unique(pairs.column(column).astype(str), return_inverse=True)
            passing &= ~np.asarray([bool(self._word_in(text)) for text in texts], dtype=bool)[places]
        if self.concepts:
            concepts = embed(list(self.concepts)).T
            for start in range(0, len(pairs), _AT_ONCE):
                rows = np.arange(start, min(len(pairs), start + _AT_ONCE))
                passing[rows] &= (vectors[rows] @ concepts).max(axis=1) < self.cosine
        return passing

    def _word_in(self, text: str) -> str:
        """The blocked word or phrase that stands in a text; empty for none."""
        if not self.words:
            return ""
        said = f" {' '.join(tokenize(text))} "
        return next((word for word, tokens in _phrases(self.words) if f" {tokens} " in said), "")


@cache
def _phrases(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Words with their tokens; those that have none block nothing."""
    return [(word, tokens) for word in words if (tokens := " ".join(tokenize(word)))]


@cache
def _sentence_encoder() -> Callable[[Sequence[str]], Floats]:
    from rag_diffusion.models.text_encoder import TextEncoder

    encoder = TextEncoder(max_tokens=64)

    def vectors(texts: Sequence[str]) -> Floats:
        features = encoder(texts)
        assert features.mask is not None
        means = features.states.sum(dim=1) / features.mask.sum(dim=1, keepdim=True)
        return np.asarray((means / means.norm(dim=1, keepdim=True)).float().numpy())

    return vectors


def sentence_vectors(texts: Sequence[str]) -> Floats:
    """(Q, D) unit vectors of Q `texts`, by the sentence encoder that this package comes with."""
    return _sentence_encoder()(texts)
