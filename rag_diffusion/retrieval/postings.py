"""The best texts for a few weighted terms, read from those terms' entries alone.

Terms are added up in the order of the most that each can give. Once the k-th best text is ahead of all that the
remaining terms can give together, no new text can come in; what the rest gives is then looked up for the few texts
that are still in question. The k-th best is known early, since whole scores of a few texts cost little. So a word that
nearly every text has costs next to nothing, and the result is exact.

Source: MaxScore, Turtle and Flood, "Query evaluation: strategies and optimizations" (1995).

Shapes: N texts, V terms, M entries, L terms of a query, k hits, R rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Doubles, Ints, Mask

DECIMALS = 9  # scores that agree to so many digits are a tie, whatever the order of a sum was
_AHEAD = 4  # times k texts are looked at for a bound
_CHEAP = 2048  # entries are read in the time of finding a bound
_LOOK_UP = 16  # entries are read in the time of one look-up
_SORT = 16  # sums are scanned in the time of sorting one entry
_SLACK = 1e-8  # a bound this close decides nothing

RowFilter = Callable[[NDArray[np.integer]], Mask]


class Postings:
    """Weights of terms in texts, by term.

    Args:
        starts: (V + 1,) int64.
        texts: (M,) int32 text numbers, rising within a term.
        weights: (M,) float64.
        total: N.
    """

    def __init__(self, starts: Ints, texts: NDArray[np.int32], weights: Doubles, total: int) -> None:
        self._starts, self._weights = starts, weights
        self._texts = texts.astype(np.int64)  # as numpy addresses: twice as fast to read
        self.total = total
        self._sizes = np.diff(starts)
        self._local = threading.local()
        self._most = np.maximum.reduceat(weights, starts[:-1])  # every term has an entry
        self._least = np.minimum.reduceat(weights, starts[:-1])

    def entries(self, column: int) -> tuple[Ints, Doubles]:
        """Numbers of the texts of the term `column`, and its weight in each."""
        place = slice(int(self._starts[column]), int(self._starts[column + 1]))
        return self._texts[place], self._weights[place]

    def at(self, columns: Ints, factors: Doubles, rows: NDArray[np.integer]) -> Doubles:
        """Scores of some texts.

        Args:
            columns: (L,) distinct terms.
            factors: (L,) their weights in the query.
            rows: (R,) numbers of the texts, rising.

        Returns:
            (R,) sums of factor times weight, in the order of the columns.
        """
        scores = np.zeros(len(rows))
        for column, factor in zip(columns, factors, strict=True):
            texts, weights = self.entries(column)
            if len(texts) < len(rows):
                place, there = _find(texts, rows)
                scores[place[there]] += factor * weights[there]
            else:
                place, there = _find(rows, texts)
                scores[there] += factor * weights[place[there]]
        return scores

    def top(self, columns: Ints, factors: Doubles, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """The at most k best texts with a score above zero, best first, ties by number.

        Args:
            columns: (L,) distinct terms.
            factors: (L,) their weights in the query, not negative.
            k: hits wanted.
            row_filter: which of some texts may come.
        """
        if not len(columns) or not k:
            return np.empty(0, dtype=np.int64), np.empty(0)
        sums, lists = self._sums(), list[Ints]()
        try:
            rows = self._candidates(columns, factors, k, row_filter, sums, lists)
        finally:
            for texts in lists:
                sums[texts] = 0
        scores = self.at(columns, factors, rows)
        rows, scores = rows[scores > 0], scores[scores > 0]
        order = np.lexsort((rows, -np.round(scores, DECIMALS)))[:k]
        return rows[order].astype(np.int64), scores[order]

    def _sums(self) -> Doubles:
        """(N,) zeros of this thread; whoever adds to them leaves zeros again, which costs what was added."""
        if not hasattr(self._local, "sums"):
            self._local.sums = np.zeros(self.total)
        sums: Doubles = self._local.sums
        return sums

    def _candidates(
        self, columns: Ints, factors: Doubles, k: int, row_filter: RowFilter | None, sums: Doubles, lists: list[Ints]
    ) -> Ints:
        """Texts that can be among the k best, rising: those, and what is as good as the last of them.

        `sums` gets what the read entries add up to, `lists` their texts.
        """
        # bounds: terms by the most that each can give
        most = np.maximum(factors * self._most[columns], 0)
        order = np.argsort(-most, kind="stable")
        columns, factors = columns[order], factors[order]
        rest = np.append(np.cumsum(most[order][::-1])[::-1][1:], 0.0)  # what the terms after each can give together
        ahead = np.append(np.cumsum(self._sizes[columns][::-1])[::-1][1:], 0)  # and their entries
        prunable = bool((self._least[columns] >= 0).all())

        # one term after the other adds to the sums of its texts
        sure = 0.0  # a score that k texts have for sure
        for number, (column, factor) in enumerate(zip(columns, factors, strict=True)):
            texts, weights = self.entries(column)
            if row_filter is not None:
                allowed = row_filter(texts)
                texts, weights = texts[allowed], weights[allowed]
            lists.append(texts)
            np.add.at(sums, texts, factor * weights)

            # enough is known: no new text can come in, so the rest is looked up for those still in question
            costly = ahead[number] > 0 and self._sizes[columns[number + 1]] > _CHEAP
            if prunable and costly and k <= sum(map(len, lists)) < ahead[number]:
                touched = self._touched(lists, sums)
                partial = sums[touched]
                sure = self._kth_at_least(columns, factors, touched, partial, k)
                if sure <= rest[number] + _SLACK:
                    continue
                left = touched[partial + rest[number] >= sure - _SLACK]
                if _LOOK_UP * len(left) < ahead[number]:
                    complete = sums[left] + self.at(columns[number + 1 :], factors[number + 1 :], left)
                    return np.asarray(left[_best(complete, k)], dtype=np.int64)

        # every entry was read: the sums are whole
        every = self._touched(lists, sums) if sure <= 0 else np.flatnonzero(sums >= sure - _SLACK)
        return np.asarray(every[_best(sums[every], k)], dtype=np.int64)

    def _touched(self, lists: list[Ints], sums: Doubles) -> Ints:
        """Texts with one of the terms, rising; those whose sum is 0 may be missing."""
        if len(lists) == 1:
            return lists[0]
        if _SORT * sum(map(len, lists)) > self.total:
            return np.flatnonzero(sums != 0)  # of numbers it is slower
        return np.unique(np.concatenate(lists))

    def _kth_at_least(
        self, columns: Ints, factors: Doubles, texts: NDArray[np.integer], partial: Doubles, k: int
    ) -> float:
        """A score that k texts have for sure: the k-th best whole score of those that are ahead so far."""
        if len(texts) < k:
            return 0.0
        count = min(len(texts), _AHEAD * k)
        leading = np.sort(texts[np.argpartition(partial, -count)[-count:]])
        return float(np.partition(self.at(columns, factors, leading), -k)[-k])


def _best(scores: Doubles, k: int) -> Mask:
    """Which are among the k best or as good as the last of them."""
    if len(scores) <= k:
        return np.ones(len(scores), dtype=bool)
    best: Mask = scores >= np.partition(scores, -k)[-k] - _SLACK
    return best


def _find(few: NDArray[np.integer], many: NDArray[np.integer]) -> tuple[Ints, Mask]:
    """Where the first numbers would stand among the second, both rising, and which of them do."""
    place = np.searchsorted(many, few)
    there = place < len(many)
    there[there] = many[place[there]] == few[there]
    return place, there
