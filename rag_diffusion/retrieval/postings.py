"""The best texts for a few weighted terms, read from those terms' entries alone.

Terms are added up in the order of the most that each can give. Once the k-th best text is ahead of all that the
remaining terms can give together, no new text can come in; what the rest gives is then looked up for the few texts
that are still in question. So a word that nearly every text has costs next to nothing, and the result is exact.

Source: MaxScore, Turtle and Flood, "Query evaluation: strategies and optimizations" (1995).

Shapes: N texts, V terms, M entries, L terms of a query, k hits, R rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

DECIMALS = 9  # scores that agree to so many digits are a tie, whatever the order of a sum was
_SLACK = 1e-8  # a bound this close decides nothing

May = Callable[[NDArray[np.integer]], NDArray[np.bool_]]


class Postings:
    """Weights of terms in texts, by term.

    Args:
        starts: (V + 1,) int64.
        texts: (M,) int32 text numbers, rising within a term.
        weights: (M,) float64.
        total: N.
    """

    def __init__(self, starts: Ints, texts: NDArray[np.int32], weights: Doubles, total: int) -> None:
        self._starts, self._texts, self._weights = starts, texts, weights
        self.total = total
        self._most = np.maximum.reduceat(weights, starts[:-1])  # every term has an entry
        self._least = np.minimum.reduceat(weights, starts[:-1])

    def of(self, column: int) -> tuple[NDArray[np.int32], Doubles]:
        """Texts and weights of a term."""
        place = slice(int(self._starts[column]), int(self._starts[column + 1]))
        return self._texts[place], self._weights[place]

    def at(self, columns: Ints, factors: Doubles, rows: NDArray[np.integer]) -> Doubles:
        """(R,) scores of the given texts, which rise: the sum of factor times weight, in the order of the columns."""
        scores = np.zeros(len(rows))
        for column, factor in zip(columns, factors, strict=True):
            texts, weights = self.of(column)
            if len(texts) < len(rows):
                place, there = _find(texts, rows)
                scores[place[there]] += factor * weights[there]
            else:
                place, there = _find(rows, texts)
                scores[there] += factor * weights[place[there]]
        return scores

    def top(self, columns: Ints, factors: Doubles, k: int, may: May | None = None) -> tuple[Ints, Doubles]:
        """The at most k best texts with a score above zero, best first, ties by number.

        Args:
            columns: (L,) distinct terms.
            factors: (L,) their weights in the query, not negative.
            k: hits wanted.
            may: which of some texts may come.
        """
        rows = self._candidates(columns, factors, k, may)
        scores = self.at(columns, factors, rows)
        rows, scores = rows[scores > 0], scores[scores > 0]
        rounded = np.round(scores, DECIMALS)
        if len(rows) > k:
            last = np.partition(rounded, -k)[-k]
            kept = rounded >= last
            rows, scores, rounded = rows[kept], scores[kept], rounded[kept]
        order = np.lexsort((rows, -rounded))[:k]
        return rows[order].astype(np.int64), scores[order]

    def _candidates(self, columns: Ints, factors: Doubles, k: int, may: May | None) -> NDArray[np.integer]:
        """Texts that can be among the k best, rising; nothing else is sure of them."""
        if not len(columns) or not k:
            return np.empty(0, dtype=np.int64)
        most = np.maximum(factors * self._most[columns], 0)
        order = np.argsort(-most, kind="stable")
        left = np.concatenate([np.cumsum(most[order][::-1])[::-1][1:], [0.0]])  # what the terms after each can give
        prunable = bool((self._least[columns] >= 0).all())
        sums, seen = np.zeros(self.total), np.zeros(self.total, dtype=bool)  # pages that nobody touches cost nothing
        found = np.empty(0, dtype=np.int32)
        for place, rest in zip(order, left, strict=True):
            texts, weights = self.of(columns[place])
            if may is not None:
                allowed = may(texts)
                texts, weights = texts[allowed], weights[allowed]
            sums[texts] += factors[place] * weights
            new = texts[~seen[texts]]
            seen[new] = True
            found = np.concatenate([found, new]) if len(found) else new
            if prunable and len(found) >= k:
                own = sums[found]
                last = np.partition(own, -k)[-k]
                if last > rest + _SLACK:
                    return np.sort(found[own + rest >= last - _SLACK])
        return np.sort(found)


def _find(few: NDArray[np.integer], many: NDArray[np.integer]) -> tuple[Ints, NDArray[np.bool_]]:
    """Where the first numbers would stand among the second, both rising, and which of them do."""
    place = np.searchsorted(many, few)
    there = place < len(many)
    there[there] = many[place[there]] == few[there]
    return place, there
