"""Queries of clip-retrieval's protocol, answered from one state of a knowledge base.

A text is ranked as everywhere in this package, by the fused score of params.yaml, which is then its `similarity`; with
the modality `text` the pictures have no say in it. An image, or a vector of our own encoder, is ranked by its cosine to
the pictures, or with the modality `text` to the captions.

Shapes: N pairs, D width of the encoder's space.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Ints, Pixels
from rag_diffusion.errors import QueryError
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.serving.queries import KnnRequest, global_id
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.originals import Original

_DENSE = {"image": "text_to_image", "text": "text_to_text"}
_FIELDS = {  # column -> name in the answer
    "caption": "caption",
    "source": "source",
    "category": "label",
    "style": "style",
    "title": "title",
    "licence": "licence",
    "attribution": "attribution",
    "split": "split",
}
MAX_SHOWN = 2**25  # bytes of images in one answer
_BLOCK = 64  # images read at a time
_HASHED = 2**16  # ids hashed at a time


class KnnService:
    """Answers from one retriever, whose pairs do not change.

    Args:
        retriever: over all data sets of an index.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self._pairs = retriever.corpus

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def image_size(self) -> int:
        """Side of the pairs' images in pixels."""
        return self._pairs.image_size

    def warm(self) -> None:
        """Read what the first query would read."""
        self.knn(KnnRequest(text="a", num_images=1), pixels=None, where=Filter(), url=str)
        self.rows([0])

    def knn(
        self, request: KnnRequest, *, pixels: Pixels | None, where: Filter, url: Callable[[int], str]
    ) -> list[dict[str, Any]]:
        """Results of a query, best first; those beyond `num_images` are ids alone.

        Args:
            request: the query; its images are not looked at here.
            pixels: (H, W, 3) uint8, the query's image where it has one.
            where: what may come.
            url: where the image of a global id can be fetched.

        Raises:
            QueryError: the vector has another width.
        """
        count = request.num_results
        top_k = 2 * count + 16 if request.deduplicate else count
        query = Query(
            [request.text or ""],
            top_k=max(1, min(top_k, len(self._pairs))),
            where=where,
            exclude=[self._known(request.exclude)] if request.exclude else None,
        )
        probabilities: Mapping[int, float] = {}
        if request.text is not None:
            rows, scores, probabilities = self._by_text(request, query)
        else:
            rows, scores = self._by_vector(request, query, self._vector(request, pixels))
        if request.deduplicate:
            first = _first_of_each(self._pairs.cells("duplicate_group", rows))
            rows, scores = rows[first], scores[first]
        rows, scores = rows[:count], scores[:count]
        described = self.entries(rows[: request.num_images], url=url, with_images=request.with_images)
        for row, entry in zip(rows.tolist(), described, strict=False):
            entry |= {"probability": probabilities[row]} if row in probabilities else {}
        alone = [{"id": global_id(name)} for name in self._pairs.ids(rows[request.num_images :])]
        return [entry | {"similarity": float(score)} for entry, score in zip((*described, *alone), scores, strict=True)]

    def entries(self, rows: Ints, *, url: Callable[[int], str], with_images: bool) -> list[dict[str, Any]]:
        """Describe pairs as the protocol does.

        Args:
            rows: (n,) of them.
            url: where the image of a global id can be fetched.
            with_images: whether the field `image` has the PNG as base64, until there are `MAX_SHOWN` bytes of them.

        Returns:
            An object for each row, without `similarity`.
        """
        names = self._pairs.ids(rows)
        images = self._shown(rows) if with_images else []
        columns = {field: self._pairs.cells(column, rows) for column, field in _FIELDS.items()}
        entries = []
        for place, name in enumerate(names):
            key = global_id(name)
            entry: dict[str, Any] = {"id": key, "pair_id": name, "url": url(key)}
            entry |= {field: cells[place] for field, cells in columns.items()}
            if place < len(images):
                entry["image"] = base64.b64encode(images[place]).decode()
            entries.append(entry)
        return entries

    def _shown(self, rows: Ints) -> list[bytes]:
        """Images of the first rows, until they are as many bytes as one answer may hold; the others have their url."""
        images, size = list[bytes](), 0
        for start in range(0, len(rows), _BLOCK):
            images += self._pairs.images(rows[start : start + _BLOCK])
            size = sum(map(len, images))
            if size > MAX_SHOWN:
                break
        while size > MAX_SHOWN:
            size -= len(images.pop())
        return images

    def rows(self, keys: Sequence[int]) -> list[int | None]:
        """Rows of the global ids `keys`, in their order; None where no pair has one."""
        known, order = self._by_key
        wanted = np.asarray([key if 0 <= key < 2**63 else -1 for key in keys], dtype=np.int64)
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        same = known[places] == wanted
        return [int(order[place]) if match else None for place, match in zip(places, same, strict=True)]

    def image(self, row: int) -> bytes:
        """PNG of the pair at a `row`."""
        return self._pairs.images(np.asarray([row]))[0]

    def original(self, row: int) -> Original | None:
        """The file that the image of the pair at a `row` was made of, opened; None where it is not kept."""
        return self._pairs.original(row)

    @cached_property
    def _by_key(self) -> tuple[Ints, Ints]:
        """Global ids, rising, and the row of each."""
        total = len(self._pairs)
        keys = np.empty(total, dtype=np.int64)
        for start in range(0, total, _HASHED):
            rows = np.arange(start, min(total, start + _HASHED))
            keys[rows] = [global_id(name) for name in self._pairs.ids(rows)]
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def _by_text(self, request: KnnRequest, query: Query) -> tuple[Ints, Doubles, dict[int, float]]:
        """Rows, scores, and the calibrated probability of the first rows, where there is one."""
        weights = dict(self.retriever.method.weights)
        if request.modality == "text":
            weights["text_to_image"] = 0.0
            if not any(weights.values()):
                weights["text_to_text"] = 1.0
        (hits,) = self.retriever.weighted(weights).search(query).hits
        rows = self._pairs.rows(hits.pair_ids)
        return (
            rows,
            np.asarray(hits.scores, dtype=np.float64),
            dict(zip(rows.tolist(), hits.probabilities, strict=False)),
        )

    def _by_vector(self, request: KnnRequest, query: Query, vector: Floats) -> tuple[Ints, Doubles]:
        weights = dict.fromkeys(self.retriever.method.weights, 0.0) | {_DENSE[request.modality]: 1.0}
        (hits,) = self.retriever.weighted(weights).search(replace(query, vectors=vector[None])).hits
        rows = self._pairs.rows(hits.pair_ids)
        vectors = self.retriever.vectors
        table = vectors.image if request.modality == "image" else vectors.text
        cosines = np.asarray(table[rows] @ vector, dtype=np.float64)
        order = np.argsort(-cosines, kind="stable")
        return rows[order], cosines[order]

    def _vector(self, request: KnnRequest, pixels: Pixels | None) -> Floats:
        """(D,) unit vector of an image, or the one that was given."""
        if pixels is not None:
            vector: Floats = self.retriever.image_vectors(pixels[None])[0]
            return vector
        given = np.asarray(request.embedding_input, dtype=np.float64)
        width = int(self.retriever.vectors.image[np.zeros(1, dtype=np.int64)].shape[1])
        if len(given) != width:
            raise QueryError(
                f"embedding_input: expected {width} numbers, a vector of this server's own encoder, got {len(given)}"
            )
        return (given / np.linalg.norm(given)).astype(np.float32)

    def _known(self, pair_ids: Sequence[str]) -> list[str]:
        """Excluded pairs; one that is not here cannot come anyway."""
        rows = self.rows([global_id(name) for name in pair_ids])
        return [name for name, row in zip(pair_ids, rows, strict=True) if row is not None]


def _first_of_each(groups: Sequence[str]) -> Ints:
    """Places of the first of each group, rising."""
    first: dict[str, int] = {}
    for place, group in enumerate(groups):
        first.setdefault(group, place)
    return np.fromiter(first.values(), dtype=np.int64)
