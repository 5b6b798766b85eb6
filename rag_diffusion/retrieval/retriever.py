"""Text queries to ranked pairs: BM25, text-to-text and text-to-image similarity, fused.

Each similarity offers its best hits; the union of them is scored exactly by all three.

Shapes: N pairs, Q queries, D width of the dual encoder's space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.config import Config, load_config
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import LineageError
from rag_diffusion.files import tree_hash
from rag_diffusion.layout import CORPUS, ENCODER, INDEX, VECTORS
from rag_diffusion.models.dual_encoder import load_dual_encoder
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.embedder import Embedder
from rag_diffusion.retrieval.fusion import DECIMALS, best_first, contributions, normalise
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.several import one_thing, take_turns, things
from rag_diffusion.retrieval.vectors import Vectors, check_stamp
from rag_diffusion.types import Hits

POOL = 200  # hits that each similarity offers; its last one is the zero of the min-max scale
CHUNK = 256  # queries scored at a time
IMAGE_INDEX, TEXT_INDEX = "image.index", "text.index"

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Ranked rows of one query, best first; `parts` is what each similarity gave to the score."""

    rows: Ints
    scores: Doubles
    parts: dict[str, Doubles]


@dataclass(frozen=True)
class ImageQuery:
    """What hits are to look like: (Q, D) unit vectors, and the share of that in the score."""

    vectors: Floats
    share: float

    def beside(self, weights: dict[str, float]) -> dict[str, float]:
        """The weights of the texts, scaled to leave that share."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"image_weight: expected a share from 0 to 1, got {self.share}")
        total = sum(weights.values()) or 1.0
        scaled = {name: weight / total * (1 - self.share) for name, weight in weights.items()}
        return scaled | {"image_to_image": self.share}


class Retriever:
    """Finds pairs for texts.

    Args:
        corpus: the knowledge base.
        vectors: of its images and captions.
        lexical: BM25 over its captions.
        indexes: nearest neighbors over the same vectors, `text_to_text` and `text_to_image`.
        weights: of `bm25`, `text_to_text` and `text_to_image`.
        embed: texts to (Q, D) unit vectors.
        embed_images: (Q, H, W, 3) uint8 to (Q, D) unit vectors; None where nothing is found by image.
    """

    def __init__(
        self,
        corpus: Corpus,
        vectors: Vectors,
        lexical: LexicalIndex,
        indexes: dict[str, VectorIndex],
        *,
        weights: dict[str, float],
        embed: Callable[[Sequence[str]], Floats],
        embed_images: Callable[[Pixels], Floats] | None = None,
    ) -> None:
        self.corpus = corpus
        self.vectors = vectors
        self._lexical = lexical
        self._indexes = indexes
        self._dense = {"text_to_text": vectors.text, "text_to_image": vectors.image}
        self._weights = weights
        self._embed, self._embed_images = embed, embed_images
        self._pair_ids: list[str] = corpus.table["pair_id"].tolist()

    @classmethod
    def open(cls, root: Path | str) -> Retriever:
        """The retriever of a project whose stages have run up to `index`, as its params.yaml says; see `load`."""
        root = Path(root)
        return cls.load(root, load_config(root / "params.yaml"), Corpus.open(root / CORPUS))

    @classmethod
    def load(cls, root: Path | str, config: Config, corpus: Corpus) -> Retriever:
        """Read what `align`, `embed` and `index` wrote; the encoder itself is loaded at the first
        query.

        Raises:
            DataError: an artifact is missing or damaged.
            LineageError: an artifact was made from another corpus or with another encoder.
        """
        root = Path(root)
        vectors = Vectors.open(root / VECTORS, corpus)
        encoder_hash = tree_hash(root / ENCODER)
        if vectors.encoder_hash != encoder_hash:
            raise LineageError(
                f"{root / VECTORS}: expected vectors of encoder {encoder_hash}, got those of "
                f"encoder "
                f"{vectors.encoder_hash}; run the stages `embed` and `index` again"
            )
        stamp = check_stamp(root / INDEX, corpus.hash, stage="index")
        if stamp.get("encoder_hash") != encoder_hash:
            raise LineageError(
                f"{root / INDEX}: expected an index of encoder {encoder_hash}, got one of encoder "
                f"{stamp.get('encoder_hash')}; run the stage `index` again"
            )
        embedder = _lazy_embedder(root / ENCODER)
        return cls(
            corpus,
            vectors,
            LexicalIndex.load(root / INDEX),
            {
                "text_to_text": VectorIndex.load(root / INDEX / TEXT_INDEX),
                "text_to_image": VectorIndex.load(root / INDEX / IMAGE_INDEX),
            },
            weights=config.retrieval.weights.model_dump(),
            embed=lambda texts: embedder().texts(texts),
            embed_images=lambda pixels: embedder().images(pixels),
        )

    def search(
        self,
        queries: Sequence[str],
        *,
        top_k: int,
        exclude: Sequence[Collection[str]] | None = None,
        query_vectors: Floats | None = None,
        query_images: Pixels | None = None,
        image_weight: float = 0.5,
    ) -> list[Hits]:
        """Best pairs of every query; one that names several things gets those of each in turn, see `several`.

        Args:
            queries: Q texts.
            top_k: hits asked for; fewer come where the corpus has fewer.
            exclude: per query, pair ids that must not come.
            query_vectors: (Q, D) vectors of the queries where they are known.
            query_images: (Q, H, W, 3) uint8 that the hits are to look like as well.
            image_weight: share of the images in the score, 0 to 1; the rest is that of the texts.

        Raises:
            LineageError: the corpus has no such pair as one that is excluded.
            ValueError: this retriever cannot find by image.
        """
        rows = None if exclude is None else [self.corpus.rows(ids) for ids in exclude]
        images = None if query_images is None else self._vectors_of(query_images)
        by_image = None if images is None else ImageQuery(images, image_weight)
        rankings = self.rank(queries, depth=top_k, exclude=rows, query_vectors=query_vectors, by_image=by_image)
        found = [self.hits(ranking, top_k) for ranking in rankings]
        for row, query in enumerate(queries):
            asked = things(query)
            if asked and not one_thing(asked, self._captions(found[row])):
                many = len(asked)
                turns = self.rank(
                    [thing.query for thing in asked],
                    depth=top_k,
                    exclude=None if rows is None else [rows[row]] * many,
                    by_image=None if images is None else ImageQuery(images[[row] * many], image_weight),
                )
                found[row] = take_turns([self.hits(ranking, top_k) for ranking in turns], top_k)
        return found

    def hits(self, ranking: Ranking, top_k: int) -> Hits:
        """The first `top_k` of a ranking, by pair id."""
        return Hits(
            pair_ids=tuple(self._pair_ids[row] for row in ranking.rows[:top_k]),
            scores=tuple(ranking.scores[:top_k].tolist()),
            parts={name: tuple(values[:top_k].tolist()) for name, values in ranking.parts.items()},
        )

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
        weights = self._weights if by_image is None else by_image.beside(self._weights)
        vectors = self._embed(queries) if query_vectors is None else query_vectors
        depth = max(depth, POOL)
        for start in range(0, len(queries), CHUNK):
            part = slice(start, start + CHUNK)
            allowed = self._allowed(len(queries[part]), None if exclude is None else exclude[part], within)
            lexical = self._lexical.scores(queries[part])
            if depth >= len(self._pair_ids):
                candidates = [np.flatnonzero(may) for may in allowed]
                dense = {name: vectors[part] @ base.T for name, base in self._dense.items()}
            else:
                pools = [self._dense_pools(index, vectors[part], allowed, depth) for index in self._indexes.values()]
                if by_image is not None:
                    images = self._indexes["text_to_image"]
                    pools.append(self._dense_pools(images, by_image.vectors[part], allowed, depth))
                candidates = self._candidates(pools, lexical, allowed, depth)
                dense = {}
            for row, rows in enumerate(candidates):
                raw = {"bm25": lexical[row, rows]}
                for name, base in self._dense.items():
                    found = dense[name][row, rows] if dense else base[rows] @ vectors[start + row]
                    raw[name] = found.astype(np.float64)
                if by_image is not None:
                    alike = self.vectors.image[rows] @ by_image.vectors[start + row]
                    raw["image_to_image"] = alike.astype(np.float64)
                yield self._fuse(raw, rows, weights)

    def _captions(self, hits: Hits) -> list[str]:
        captions: list[str] = self.corpus.table["caption"].iloc[self.corpus.rows(hits.pair_ids)].tolist()
        return captions

    def _allowed(self, count: int, exclude: Sequence[Ints] | None, within: Mask | None) -> Mask:
        allowed = np.ones((count, len(self._pair_ids)), dtype=bool)
        if within is not None:
            allowed &= within
        for row, rows in enumerate(exclude or ()):
            allowed[row, rows] = False
        return allowed

    def _candidates(self, dense: list[list[Ints]], lexical: Doubles, allowed: Mask, depth: int) -> list[Ints]:
        """The union of what each similarity offers to each query, sorted rows."""
        union = []
        for row, may in enumerate(allowed):
            rows = np.flatnonzero(may)
            words = rows[np.argsort(-lexical[row, rows], kind="stable")[:depth]]
            union.append(np.unique(np.concatenate([words, *(pools[row] for pools in dense)])))
        return union

    def _dense_pools(self, index: VectorIndex, queries: Floats, allowed: Mask, depth: int) -> list[Ints]:
        """Allowed hits of every query, best first; asks for more until there are enough."""
        counts = allowed.sum(axis=1)
        total, wanted = allowed.shape[1], np.minimum(depth, counts)
        k = min(total, int(1.2 * depth * total / max(1, counts.min())) + 16)
        while True:
            found = index.search(queries, k)[1]
            pools = [rows[(rows >= 0) & may[rows]] for rows, may in zip(found, allowed, strict=True)]
            if k == total or all(len(pool) >= want for pool, want in zip(pools, wanted, strict=True)):
                return [pool[:depth] for pool in pools]
            k = min(total, 2 * k)

    def _vectors_of(self, images: Pixels) -> Floats:
        if self._embed_images is None:
            raise ValueError("retriever: expected an image encoder to find by image, got none; use `Retriever.load`")
        return self._embed_images(images)

    @staticmethod
    def _fuse(raw: dict[str, Doubles], rows: Ints, weights: dict[str, float]) -> Ranking:
        parts = contributions({name: _scale(values) for name, values in raw.items()}, weights)
        scores = np.round(np.sum(list(parts.values()), axis=0), DECIMALS)
        order = best_first(scores, rows)
        return Ranking(
            rows=rows[order],
            scores=scores[order],
            parts={name: np.round(values[order], DECIMALS) for name, values in parts.items()},
        )


def _scale(values: Doubles) -> Doubles:
    """Min-max between the best and the POOL-th best: a deeper pool gives the same scores."""
    if not len(values):
        return values
    last = min(POOL, len(values))
    low = float(np.partition(values, -last)[-last])
    return normalise(values, low=low, high=float(values.max()))


def _lazy_embedder(folder: Path) -> Callable[[], Embedder]:
    """The embedder of a folder, loaded when it is first asked for."""
    return cache(lambda: Embedder(load_dual_encoder(folder)))
