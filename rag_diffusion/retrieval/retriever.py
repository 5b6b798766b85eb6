"""Text queries to ranked pairs: BM25, text-to-text and text-to-image similarity, fused.

Each similarity offers its best hits; the union of them is scored exactly by all three.

Shapes: N pairs, Q queries, D width of the dual encoder's space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property, partial

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Ints, Mask, Pixels
from rag_diffusion.errors import ExcludedPairError, LineageError
from rag_diffusion.retrieval.allowed import Allowed
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.retrieval.calibration import UNCALIBRATED, Calibration
from rag_diffusion.retrieval.conjunctions import one_thing, take_turns, things
from rag_diffusion.retrieval.evidence import Evidence
from rag_diffusion.retrieval.exclude import NearDuplicates
from rag_diffusion.retrieval.fusion import DECIMALS, POOL, best_first, fuse
from rag_diffusion.retrieval.lexical import Lexical
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.ranking import ImageQuery, Ranking, nearest_allowed
from rag_diffusion.retrieval.results import Results, search_each
from rag_diffusion.retrieval.side_by_side import side_by_side
from rag_diffusion.retrieval.stacked import float32_blocks
from rag_diffusion.retrieval.style import style_phrase, untrained_styles, without_manner
from rag_diffusion.retrieval.tokens import readable
from rag_diffusion.spans import span
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.vectors import Rows, VectorTable
from rag_diffusion.types import Hits

CHUNK = 256  # queries scored at a time
TOLD = 64  # first hits whose probability is told where nothing depends on it
CELLS = 2**26  # similarities in memory at a time where everything is ranked


class Retriever:
    """Finds pairs for texts.

    Args:
        corpus: the knowledge base.
        vectors: of its images and captions.
        lexical: over its captions, `bm25` and, where it has a weight, `tf_idf`; one alone is `bm25`.
        indexes: nearest neighbors over the same vectors, `text_to_text` and `text_to_image`.
        weights: how hits are scored and selected; a mapping is the weights, all else as it is by default.
        embed: texts to (Q, D) unit vectors.
        embed_images: (Q, H, W, 3) uint8 to (Q, D) unit vectors; None where nothing is found by image.
        calibration: gives the probability that a hit shows what was asked for; None where nothing is calibrated.
        blocklist: names pairs that are never found; None names none.

    Examples:
        >>> from rag_diffusion import KnowledgeBase, Query
        >>> retriever = KnowledgeBase.open(".").retriever(["photos"])  # or of all data sets of a project
        >>> (hits,) = retriever.search(Query(["a red circle"], top_k=2)).hits
        >>> hits.pair_ids[0], hits.scores[0] > hits.scores[1]
        ('photos/red.png', True)
        >>> retriever.corpus.pair(hits.pair_ids[0]).caption
        'a red circle'
    """

    def __init__(
        self,
        corpus: Pairs,
        vectors: VectorTable,
        lexical: Lexical | Mapping[str, Lexical],
        indexes: Mapping[str, Nearest],
        *,
        weights: Method | Mapping[str, float],
        embed: Callable[[Sequence[str]], Floats],
        embed_images: Callable[[Pixels], Floats] | None = None,
        calibration: Calibration | None = None,
        blocklist: Blocklist | None = None,
    ) -> None:
        self._blocklist = blocklist
        self.corpus = corpus
        self.vectors = vectors
        self.lexical = dict(lexical) if isinstance(lexical, Mapping) else {"bm25": lexical}
        self._indexes = indexes
        self._dense = {"text_to_text": vectors.text, "text_to_image": vectors.image}
        self.method = weights if isinstance(weights, Method) else Method(weights=weights)
        self.calibration = calibration or Calibration(reason=UNCALIBRATED)
        self.embed, self._embed_images = embed, embed_images
        self._duplicates = NearDuplicates(corpus, indexes["text_to_image"], self.method.duplicate_cosine)

    def search(self, query: Query) -> Results:
        """Best pairs of every text of `query`; of one that names several things, those of each in turn: `conjunctions`.

        Returns:
            Q rankings of at most `top_k` pairs, best first.

        Raises:
            ExcludedPairError: the corpus has no such pair as one that is excluded.
            ValueError: this retriever cannot find by image, by data sets, or by filters.
        """
        if query.sets is not None:
            raise ValueError(f"sets: expected None for a retriever of fixed pairs, got {query.sets}; use where")
        return search_each([self] * len(query.texts), query)

    def find(self, query: Query) -> list[Hits]:
        """The hits alone of `search` for `query`: Q of them.

        The name of a style that no train pair has, as of one's own icon set, is left out: the encoder was never aligned
        on it, and with it even the right hits look improbable.
        """
        given, top_k = [readable(text) for text in query.texts], query.top_k
        texts = [without_manner(text, self._untrained) if style_phrase(text) else text for text in given]
        within, rows = self._within(query.where), self._excluded(query)
        images = None if query.images is None else self.image_vectors(query.images)
        by_image = None if images is None else ImageQuery(images, query.image_weight)
        vectors = query.vectors if texts == given else None
        rankings = self.rank(texts, depth=top_k, exclude=rows, within=within, query_vectors=vectors, by_image=by_image)
        hits = [self.hits(ranking, top_k, text) for ranking, text in zip(rankings, texts, strict=True)]
        for row, text in enumerate(texts):
            parts = things(text)
            if parts and not one_thing(parts, self._captions(hits[row])):
                many = len(parts)
                turns = self.rank(
                    [thing.query for thing in parts],
                    depth=top_k,
                    exclude=None if rows is None else [rows[row]] * many,
                    within=within,
                    by_image=None if images is None else ImageQuery(images[[row] * many], query.image_weight),
                )
                most = self.method.selection.most(top_k)
                hits[row] = take_turns(
                    [self.hits(ranking, top_k, thing.query) for ranking, thing in zip(turns, parts, strict=True)], most
                )
        return hits

    def weighted(self, weights: Mapping[str, float]) -> Retriever:
        """This retriever with other `weights`; it finds as many as are asked for, whatever params.yaml selects."""
        other = copy(self)
        other.method = Method(weights=weights, fusion=self.method.fusion, rank_constant=self.method.rank_constant)
        return other

    @cached_property
    def styles(self) -> dict[str, Mask]:
        """Style -> (N,) which pairs have it."""
        column = self.corpus.column("style")
        return {style: column == style for style in np.unique(column)}

    @cached_property
    def _untrained(self) -> frozenset[str]:
        return untrained_styles(self.corpus)

    def hits(self, ranking: Ranking, top_k: int, query: str | None = None) -> Hits:
        """The selected hits of a ranking, by pair id: `top_k` where the selection says nothing else.

        Args:
            ranking: of a query.
            top_k: hits asked for.
            query: its text; None asks for no threshold, and gives no probabilities.
        """
        selection = self.method.selection
        images = self.vectors.image[ranking.rows[:POOL]] if selection.diversity else None
        scores = ranking.scores if images is None else ranking.scores[:POOL]
        probabilities = passing = None
        if query is not None:
            if self.calibration.fitted:
                judged = max(top_k, selection.max_neighbors)
                if selection.kind == "top_k" or not selection.thresholds.probability:
                    judged = min(judged, TOLD)
                probabilities = self.calibration.probabilities(self.features(query, ranking, judged))
                probabilities = np.round(probabilities, DECIMALS)
            raw = {name: values[: len(scores)] for name, values in ranking.raw.items()}
            passing = selection.thresholds.passing(scores, raw, self._evidence.information(query), probabilities)
        places = selection.choose(scores, images, top_k, passing)
        judged_hits: tuple[float, ...] = ()
        if probabilities is not None:
            known = int(np.append(places >= len(probabilities), True).argmax())  # hits before the first unjudged one
            judged_hits = tuple(probabilities[places[:known]].tolist())
        return Hits(
            pair_ids=tuple(self.corpus.ids(ranking.rows[places])),
            scores=tuple(ranking.scores[places].tolist()),
            parts={name: tuple(values[places].tolist()) for name, values in ranking.parts.items()},
            raw={name: tuple(values[places].tolist()) for name, values in ranking.raw.items()},
            probabilities=judged_hits,
            trouble="" if len(places) or not len(scores) else self._none_passed(query or "", ranking, probabilities),
        )

    def features(self, query: str, ranking: Ranking, count: int) -> Doubles:
        """What `calibration` judges the first hits of a ranking by: (R, F), see `evidence`.

        Args:
            query: the text.
            ranking: of it.
            count: R, fewer where there are fewer.
        """
        cosines = ranking.raw["text_to_text"]
        captions = self.corpus.cells("caption", ranking.rows[:count])
        return self._evidence.features(query, captions, cosines[:count], cosines)

    def rank(
        self,
        queries: Sequence[str],
        *,
        depth: int,
        exclude: Sequence[Ints] | None = None,
        within: Mask | None = None,
        query_vectors: Floats | None = None,
        by_image: ImageQuery | None = None,
    ) -> Iterator[Ranking]:
        """Rankings of rows, at least `depth` long where there are so many; deeper does not change
        the beginning.

        Args:
            queries: Q texts.
            depth: hits that each similarity offers, at least `POOL`.
            exclude: per query, rows that must not come.
            within: (N,) rows that may come, for all queries; None allows all.
            query_vectors: (Q, D) vectors of the queries where they are known.
            by_image: what the hits are to look like as well.
        """
        weights = dict(self.method.weights) if by_image is None else by_image.beside(dict(self.method.weights))
        if query_vectors is None:
            with span("embed query", "EMBEDDING"):
                query_vectors = self.embed(queries)
        vectors, within = query_vectors, self.allowed(within)
        depth, total = max(depth, POOL), len(self.corpus)
        inside = total if within is None else int(within.sum())
        everything = depth >= total
        chunk = max(1, min(CHUNK, CELLS // total)) if everything else CHUNK
        for start in range(0, len(queries), chunk):
            part = slice(start, start + chunk)
            own = [None] * len(queries[part]) if exclude is None else exclude[part]
            allowed = [Allowed(total, within, rows) for rows in own]
            if everything:
                candidates = [allow.rows() for allow in allowed]
                dense = {name: _products(vectors[part], base) for name, base in self._dense.items()}
            else:
                with span("nearest vectors", "RETRIEVER", depth=depth):
                    asked = [(index, vectors[part]) for index in self._indexes.values()]
                    if by_image is not None:
                        asked.append((self._indexes["text_to_image"], by_image.vectors[part]))
                    searches = [partial(nearest_allowed, *one, allowed, inside, depth) for one in asked]
                    pools = side_by_side(searches, len(allowed))
                with span("shared words", "RETRIEVER", depth=depth):
                    pools += [self._words(index, queries[part], allowed, depth) for index in self.lexical.values()]
                candidates = [np.unique(np.concatenate(offered)) for offered in zip(*pools, strict=True)]
                dense = {}
            for row, rows in enumerate(candidates):
                with span("score and fuse", "RERANKER", candidates=len(rows)):
                    raw = {name: index.at(queries[start + row], rows) for name, index in self.lexical.items()}
                    for name, base in self._dense.items():
                        cosines = dense[name][row, rows] if dense else base[rows] @ vectors[start + row]
                        raw[name] = cosines.astype(np.float64)
                    if by_image is not None:
                        alike = self.vectors.image[rows] @ by_image.vectors[start + row]
                        raw["image_to_image"] = alike.astype(np.float64)
                    ranking = self._fuse(raw, rows, weights)
                yield ranking

    def allowed(self, within: Mask | None = None) -> Mask | None:
        """(N,) which pairs of those in the mask `within` the blocklist lets through; None where all may come."""
        if self._unblocked is None or within is None:
            return within if self._unblocked is None else self._unblocked
        return within & self._unblocked

    @cached_property
    def _unblocked(self) -> Mask | None:
        return self._blocklist.mask(self.corpus, self.vectors.text, self.embed) if self._blocklist else None

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence(next(iter(self.lexical.values())), self.corpus.style_words)

    def _none_passed(self, query: str, ranking: Ranking, probabilities: Doubles | None) -> str:
        """Why a query has no hit, in words."""
        thresholds, place = self.method.selection.thresholds, 0
        limits = [f"{name} {value:g}" for name, value in vars(thresholds).items() if value > 0]
        if probabilities is not None and thresholds.probability > 0:
            place = int(probabilities.argmax())
            verdict = f"shows it with probability {probabilities[place]:.2f}"
        else:
            verdict = f"has a fused score of {ranking.scores[0]:.2f}"
        (caption,) = self.corpus.cells("caption", ranking.rows[place : place + 1])
        return (
            f"no pair shows {query!r}: the best, {caption!r}, {verdict}, and retrieval.thresholds asks for "
            f"{', '.join(limits)}"
        )

    def _captions(self, hits: Hits) -> list[str]:
        return self.corpus.cells("caption", self.corpus.rows(hits.pair_ids))

    @staticmethod
    def _words(index: Lexical, queries: Sequence[str], allowed: Sequence[Allowed], depth: int) -> list[Ints]:
        """The best by shared words of each query; where too few share one, the first others fill the pool."""
        pools = []
        for query, allow in zip(queries, allowed, strict=True):
            rows = index.top(query, depth, allow.mask)[0]
            pools.append(np.concatenate([rows, allow.first(depth - len(rows), rows)]) if len(rows) < depth else rows)
        return pools

    def _within(self, where: Filter) -> Mask | None:
        """(N,) which rows pass a filter; None where all do."""
        return self.corpus.mask(where)

    def _excluded(self, query: Query) -> list[Ints] | None:
        """Rows that must not come, for each text."""
        try:
            rows = None if query.exclude is None else [self.corpus.rows(ids) for ids in query.exclude]
        except LineageError as error:
            raise ExcludedPairError(f"exclude: {error}") from None
        if rows is not None and query.without_duplicates:
            rows = [self._duplicates.of_pairs(own, self.vectors.image) for own in rows]
        if query.exclude_images is not None:
            pictures = zip(query.exclude_images, self.image_vectors(query.exclude_images), strict=True)
            pictured = [self._duplicates.of_image(*picture) for picture in pictures]
            rows = pictured if rows is None else [np.union1d(*lists) for lists in zip(rows, pictured, strict=True)]
        return rows

    def image_vectors(self, images: Pixels) -> Floats:
        """Unit vectors of pictures: `images` (Q, H, W, 3) uint8 -> (Q, D).

        Raises:
            ValueError: this retriever cannot find by image.
        """
        if self._embed_images is None:
            raise ValueError("retriever: expected an image encoder to find by image, got none; open a knowledge base")
        return self._embed_images(images)

    def _fuse(self, raw: dict[str, Doubles], rows: Ints, weights: dict[str, float]) -> Ranking:
        fused, parts = fuse(raw, weights, self.method.fusion, self.method.rank_constant)
        scores = np.round(fused, DECIMALS)
        order = best_first(scores, rows)
        return Ranking(
            rows=rows[order],
            scores=scores[order],
            parts={name: np.round(values[order], DECIMALS) for name, values in parts.items()},
            raw={name: np.round(values[order], DECIMALS) for name, values in raw.items()},
        )


def _products(queries: Floats, base: Rows) -> Floats:
    """(Q, N) inner products of (Q, D) with all rows."""
    return np.concatenate([queries @ block.T for block in float32_blocks(base)], axis=1)
