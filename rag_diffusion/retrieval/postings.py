"""The best texts for a few weighted terms: from the entries of rare terms, or from the sums of all.

A frequent term, as `style` among icons, is held as a row with its weight in every text. Which k texts the frequent
terms of a query alone rank best is the same in many queries, and kept. A text that is none of these and has no rare
term has k better ones before it, so that a query reads its rare terms' entries, and the rows at their texts, no more.

Where those entries are many, or frequent terms come together for the first time, everything is added up: adding rows is
what a processor does best. The k-th best of the maxima of groups of texts bounds the k-th best text, so that nothing is
sorted but what may be among the best. Either way the result is exact.

Source: kept results of terms that come together: Long and Suel, "Three-level caching for efficient query processing in
large web search engines" (2005); maxima of groups: block-max indexes, Ding and Suel, "Faster top-k document retrieval
using block-max indexes" (2011).

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
_FREQUENT = 16  # a term in more than a sixteenth of the texts is held as a row; more entries cost more than adding rows
_GROUPS = 8  # times k groups have maxima of their own
_TEXTS = 64  # at most in a group
_SLACK = 1e-8  # a bound this close decides nothing
_KEPT = 2**18  # text numbers of frequent terms' best texts, 1 MB

RowFilter = Callable[[NDArray[np.integer]], Mask]


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of one term.

    Attributes:
        texts: (m,) int32 text numbers, rising.
        weights: (m,) float64.
        row: (N and some zeros,) its weight in every text, of a frequent term.
    """

    texts: NDArray[np.int32]
    weights: Doubles
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
        self.frequent: set[str] = set()  # those terms among the known ones
        self._ranked: dict[tuple[str | float, ...], NDArray[np.int32]] = {}
        self._kept = 0
        self._negative = False  # whether a known term has a weight below zero, as in a tiny corpus

    def entries(self, term: str) -> Entries:
        """Of a `term` that some text has."""
        found = self._known.get(term)
        if found is None:
            texts, weights = self._load(term)
            row = None
            if len(texts) > self.total / _FREQUENT:
                row = np.zeros(self._padded)
                row[texts] = weights
                self.frequent.add(term)
            found = Entries(texts, weights, row)
            if len(texts):
                self._negative |= bool(weights.min() < 0)
                self._known[term] = found
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
            terms: (L,) distinct ones that some text has, frequent ones first.
            factors: (L,) their weights in the query, not negative.
            k: hits wanted.
            row_filter: which of some texts may come.
        """
        if not terms or not k:
            return np.empty(0, dtype=np.int64), np.empty(0)
        found = self._from_few(terms, factors, k, row_filter) or self._added_up(terms, factors, k, row_filter)
        return _in_order(*found, k)

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
            scaled.append(_times(factor, entries.row))
        if len(scaled) == 2:
            np.add(scaled[0], scaled[1], out=sums)
        elif scaled:
            np.copyto(sums, scaled[0])
        else:
            sums.fill(0)
        for entries, factor in zip(every[len(scaled) :], factors[len(scaled) :], strict=True):
            if entries.row is not None:
                np.add(sums, _times(factor, entries.row), out=sums)
            else:
                np.add.at(sums, entries.texts.astype(np.intp), _times(factor, entries.weights))
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

    def _from_few(
        self, terms: Sequence[str], factors: Doubles, k: int, row_filter: RowFilter | None
    ) -> tuple[Ints, Doubles] | None:
        """As `_added_up`, from texts with rare terms and the best of the frequent ones; None where that is no less."""
        every, weights = [self.entries(term) for term in terms], factors.tolist()
        frequent, depth = sum(entries.row is not None for entries in every), k if row_filter is None else 2 * k
        lists = [entries.texts for entries in every[frequent:]]
        if _FREQUENT * (depth + sum(map(len, lists))) > self.total or self._negative:
            return None
        ranked = self._best_of_frequent(terms[:frequent], factors[:frequent], depth)
        rows = np.concatenate([ranked, *lists], dtype=np.intp)

        # a text comes once for each list that has it, each time with its whole sum
        sums, scores, start = self._sums("few"), np.zeros(len(rows)), len(ranked)
        for entries, factor in zip(every, weights, strict=True):
            if entries.row is not None:
                scores += _times(factor, entries.row.take(rows))
        sums[rows] = scores
        for texts, entries, factor in zip(lists, every[frequent:], weights[frequent:], strict=True):
            np.add.at(sums, rows[start : start + len(texts)], _times(factor, entries.weights))
            start += len(texts)
        scores = sums.take(rows)

        if row_filter is not None:
            allowed = row_filter(rows)
            if np.count_nonzero(allowed[: len(ranked)]) < k and len(ranked) == depth:  # too many must not come
                return None
            rows, scores = rows[allowed], scores[allowed]
        best = _best(scores, k * (1 + len(lists)))
        rows, first = np.unique(rows[best], return_index=True)
        return rows, scores[best[first]]

    def _best_of_frequent(self, terms: Sequence[str], factors: Doubles, depth: int) -> NDArray[np.int32]:
        """The at most `depth` best texts of frequent terms alone; kept for the next query with them."""
        if not terms:
            return np.empty(0, dtype=np.int32)
        key = (depth, *terms, *factors.tolist())
        found = self._ranked.get(key)
        if found is None:
            found = _in_order(*self._added_up(terms, factors, depth, None), depth)[0].astype(np.int32)
            if self._kept + len(found) > _KEPT:
                self._ranked, self._kept = {}, 0
            self._ranked[key] = found
            self._kept += len(found)
        return found


def _times(factor: float, weights: Doubles) -> Doubles:
    """The product; the weights themselves, not a copy, where the factor is one, as it is for most words of a query."""
    return weights if factor == 1 else factor * weights


def _in_order(rows: Ints, scores: Doubles, k: int) -> tuple[Ints, Doubles]:
    """The k best of `rows`, which rise, with a score above zero; best first, ties by number."""
    order = np.argsort(np.rint(scores * -(10.0**DECIMALS)), kind="stable")[:k]
    order = order[: np.count_nonzero(scores[order] > 0)]
    return rows[order].astype(np.int64), scores[order]


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
    return np.flatnonzero(sums >= bound) if bound > 0 else np.flatnonzero(sums > 0)


def _best(scores: Doubles, k: int) -> Ints:
    """Where the k best are, and those as good as the last of them."""
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k] - _SLACK)


def _find(few: NDArray[np.integer], many: NDArray[np.integer]) -> tuple[Ints, Mask]:
    """Where the first numbers would stand among the second, both rising, and which of them do."""
    place = np.searchsorted(many, few)
    there = place < len(many)
    there[there] = many[place[there]] == few[there]
    return place, there
