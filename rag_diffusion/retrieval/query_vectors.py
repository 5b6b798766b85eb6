"""Vectors of queries, each made once: for both similarities, all data sets, style neighbors and later steps.

Shapes: Q texts, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np

from rag_diffusion.arrays import Floats

KEPT = 1024  # texts, about a megabyte


class QueryVectors:
    """The text tower of an encoder, which runs once for a text; safe to call from several threads.

    Args:
        embed: Q texts -> (Q, D) unit vectors, a row of which does not depend on the others.
        kept: texts whose vectors are kept, those that were asked for last.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Floats], kept: int = KEPT) -> None:
        self._embed, self._most = embed, kept
        self._known: OrderedDict[str, Floats] = OrderedDict()
        self._lock = Lock()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """(Q, D) vectors of Q texts, at least one."""
        with self._lock:
            vectors = {text: self._known[text] for text in texts if text in self._known}
        if missing := [text for text in dict.fromkeys(texts) if text not in vectors]:
            vectors |= dict(zip(missing, self._embed(missing), strict=True))
        with self._lock:
            for text in texts:
                self._known[text] = vectors[text]
                self._known.move_to_end(text)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return np.stack([vectors[text] for text in texts])
