"""The best texts for a few weighted terms: everything is added up where that is cheap, else as little as proves them.

A frequent term, as `style` among icons, is held as a row with its weight in every text: adding rows is what a processor
does best, so that a query costs little more than its rare terms' entries and a few looks at N sums. The k-th best of
the maxima of groups of texts bounds the k-th best text, so that nothing is sorted but what may be among the best.

Of very many texts even that is much. There, terms are added up in the order of the most that each can give. Once the
k-th best text is ahead of all that the remaining terms can give together, no new text can come in; what the rest gives
is then looked up for the few texts that are still in question. Either way the result is exact.

Source: MaxScore, Turtle and Flood, "Query evaluation: strategies and optimizations" (1995); maxima of groups: block-max
indexes, Ding and Suel, "Faster top-k document retrieval using block-max indexes" (2011).

Shapes: N texts, m texts with a term, L terms of a query, k hits, R rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Doubles, Ints, Mask

DECIMALS = 9  # scores that agree to so many digits are a tie, whatever the order of a sum was
_AHEAD = 4  # times k texts are looked at for a bound
_MANY = 2**18  # of so many texts it pays to prove that some need no look
_LOOK_UP = 16  # entries are read in the time of one look-up
_FREQUENT = 8  # a term in more than an eighth of the texts is held as a row
_GROUPS = 8  # times k groups have maxima of their own
_TEXTS = 64  # at most in a group
_SLACK = 1e-8  # a bound this close decides nothing

RowFilter = Callable[[NDArray[np.integer]], Mask]


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of one term.

    Attributes:
        texts: (m,) int32 text numbers, rising.
        weights: (m,) float64.
        most, least: of the weights.
        row: (N and some zeros,) its weight in every text, of a frequent term.
    """

    texts: NDArray[np.int32]
    weights: Doubles
    most: float
    least: float
    row: Doubles | None


class Postings:
    """Weights of terms in texts, by term; those of a term are made when it is asked for first, and kept.

    Args:
        load: a term to (m,) texts, rising, and (m,) weights; nothing of a term that no text has.
        total: N.
    """

    def __init__(self, load: Callable[[str], tuple[NDArray[np.int32], Doubles]], total: int) -> None:
        self.total = total
        self._load, self._local = load, threading.local()
        self._padded = -(-total // _TEXTS) * _TEXTS
        self._known: dict[str, Entries] = {}
        self.frequent: set[str] = set()  # those terms among the known ones; a query is quickest with them first

    def entries(self, term: str) -> Entries:
        """Of a `term` that some text has."""
        found = self._known.get(term)
        if found is None:
            texts, weights = self._load(term)
            row = None
            if len(texts) > self.total / _FREQUENT:
                row = np.zeros(self._padded)
                row[texts] = weights
            most, least = (float(weights.max()), float(weights.min())) if len(texts) else (0.0, 0.0)
            found = Entries(texts, weights, most, least, row)
            if len(texts):
                self._known[term] = found
            if row is not None:
                self.frequent.add(term)
        return found

    def size(self, term: str) -> int:
        """In how many texts a `term` stands."""
        return len(self.entries(term).texts)

    def at(self, terms: Sequence[str], factors: Doubles, rows: NDArray[np.integer]) -> Doubles:
        """Scores of some texts.

        Args:
            terms: (L,) distinct ones that some text has.
            factors: (L,) their weights in the query.
            rows: (R,) numbers of the texts, rising.

        Returns:
            (R,) sums of factor times weight, in the order of the terms.
        """
        scores, wanted = np.zeros(len(rows)), rows.astype(np.int32, copy=False)
        for term, factor in zip(terms, factors.tolist(), strict=True):
            entries = self.entries(term)
            if entries.row is not None:
                scores += factor * entries.row[rows]
                continue
            texts, weights = entries.texts, entries.weights
            if len(texts) < len(rows):
                place, there = _find(texts, wanted)
                scores[place[there]] += factor * weights[there]
            else:
                place, there = _find(wanted, texts)
                scores[there] += factor * weights[place[there]]
        return scores

    def top(
        self, terms: Sequence[str], factors: Doubles, k: int, row_filter: RowFilter | None = None
    ) -> tuple[Ints, Doubles]:
        """The at most k best texts with a score above zero, best first, ties by number.

        Args:
            terms: (L,) distinct ones that some text has.
            factors: (L,) their weights in the query, not negative.
            k: hits wanted.
            row_filter: which of some texts may come.
        """
        if not terms or not k:
            return np.empty(0, dtype=np.int64), np.empty(0)
        rows = self._proven(terms, factors, k, row_filter) if self.total >= _MANY else None
        if rows is None:
            rows, scores = self._added_up(terms, factors, k, row_filter)
        else:
            scores = self.at(terms, factors, rows)
        rows, scores = rows[scores > 0], scores[scores > 0]
        order = np.lexsort((rows, -np.round(scores, DECIMALS)))[:k]
        return rows[order].astype(np.int64), scores[order]

    def _sums(self, name: str) -> Doubles:
        """(N and some more,) room of this thread, zeros at first."""
        if not hasattr(self._local, name):
            setattr(self._local, name, np.zeros(self._padded))
        sums: Doubles = getattr(self._local, name)
        return sums

    def _add_up(self, terms: Sequence[str], factors: Sequence[float]) -> Doubles:
        """(N and some zeros,) scores of all texts, in this thread's room; quick where frequent terms are the first."""
        sums, every = self._sums("all"), [self.entries(term) for term in terms]
        scaled = list[Doubles]()
        for entries, factor in zip(every[:2], factors, strict=False):
            if entries.row is None:
                break
            scaled.append(entries.row if factor == 1 else factor * entries.row)
        if len(scaled) == 2:
            np.add(scaled[0], scaled[1], out=sums)
        elif scaled:
            np.copyto(sums, scaled[0])
        else:
            sums.fill(0)
        for entries, factor in zip(every[len(scaled) :], factors[len(scaled) :], strict=True):
            if entries.row is not None:
                np.add(sums, entries.row if factor == 1 else factor * entries.row, out=sums)
            else:
                np.add.at(sums, entries.texts.astype(np.intp), factor * entries.weights)
        return sums

    def _added_up(
        self, terms: Sequence[str], factors: Doubles, k: int, row_filter: RowFilter | None
    ) -> tuple[Ints, Doubles]:
        """Texts that can be among the k best, rising, and their scores, from the sums of all."""
        sums = self._add_up(terms, factors.tolist())
        rows = _leading(sums, k if row_filter is None else 2 * k)
        if row_filter is not None:
            rows = rows[row_filter(rows)]
            if len(rows) < k:  # too many of the best must not come
                rows = np.flatnonzero(sums > 0)
                rows = rows[row_filter(rows)]
        scores = sums[rows]
        best = _best(scores, k)
        return rows[best], scores[best]

    def _proven(self, terms: Sequence[str], factors: Doubles, k: int, row_filter: RowFilter | None) -> Ints | None:
        """Texts that can be among the k best, rising, where few entries prove it; None where they do not."""
        # bounds: terms by the most that each can give
        every = [self.entries(term) for term in terms]
        if any(entries.least < 0 for entries in every):
            return None
        most = factors * np.asarray([entries.most for entries in every])
        order = np.argsort(-most, kind="stable")
        terms, factors, every = [terms[at] for at in order], factors[order], [every[at] for at in order]
        rest = np.append(np.cumsum(most[order][::-1])[::-1][1:], 0.0)  # what the terms after each can give together
        sizes = [len(entries.texts) for entries in every]
        ahead = np.append(np.cumsum(sizes[::-1])[::-1][1:], 0)  # and their entries

        # one term after the other adds to the sums of its texts
        sums, lists = self._sums("touched"), list[Ints]()
        try:
            for number, (entries, factor) in enumerate(zip(every, factors.tolist(), strict=True)):
                if entries.row is not None:
                    return None
                texts, weights = entries.texts, entries.weights
                if row_filter is not None:
                    allowed = row_filter(texts)
                    texts, weights = texts[allowed], weights[allowed]
                lists.append(texts.astype(np.intp))
                np.add.at(sums, lists[-1], factor * weights)

                # enough is known: no new text can come in, so the rest is looked up for those still in question
                if k <= sum(map(len, lists)) < ahead[number]:
                    left = self._left(terms, factors, rest[number], k, sums, lists)
                    if left is not None and _LOOK_UP * len(left) < ahead[number]:
                        complete = sums[left] + self.at(terms[number + 1 :], factors[number + 1 :], left)
                        return np.asarray(left[_best(complete, k)], dtype=np.int64)
            return None
        finally:
            for added in lists:
                sums[added] = 0

    def _left(
        self, terms: Sequence[str], factors: Doubles, rest: float, k: int, sums: Doubles, lists: list[Ints]
    ) -> Ints | None:
        """Texts that may still be among the k best; None where one without any of the terms so far may be."""
        touched = lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))
        partial = sums[touched]
        sure = self._kth_at_least(terms, factors, touched, partial, k)
        return touched[partial + rest >= sure - _SLACK] if sure > rest + _SLACK else None

    def _kth_at_least(
        self, terms: Sequence[str], factors: Doubles, texts: NDArray[np.integer], partial: Doubles, k: int
    ) -> float:
        """A score that k texts have for sure: the k-th best whole score of those that are ahead so far."""
        if len(texts) < k:
            return 0.0
        count = min(len(texts), _AHEAD * k)
        leading = np.sort(texts[np.argpartition(partial, -count)[-count:]])
        return float(np.partition(self.at(terms, factors, leading), -k)[-k])


def _leading(sums: Doubles, k: int) -> Ints:
    """Numbers, rising, of sums above zero among which are the k largest, and all that are as good as the last of them.

    Args:
        sums: (N,) and zeros up to a multiple of `_TEXTS`.
        k: how many.
    """
    texts = _TEXTS
    while texts > 1 and len(sums) < _GROUPS * k * texts:
        texts //= 2
    groups = sums.reshape(texts, -1)  # texts that lie far apart: maxima of whole rows are quick
    maxima = groups.max(axis=0)
    bound = np.partition(maxima, -k)[-k] - _SLACK if len(maxima) > k else 0.0
    columns = np.flatnonzero(maxima >= bound) if bound > 0 else np.flatnonzero(maxima > 0)
    place, within = np.nonzero(groups[:, columns] >= bound) if bound > 0 else np.nonzero(groups[:, columns] > 0)
    rows = place * groups.shape[1] + columns[within]
    return np.asarray(np.sort(rows), dtype=np.int64)


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
