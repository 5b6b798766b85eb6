"""Where the neighbors of a drawing come from: the retriever, a knowledge base with remotes, or the caller's hand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.models.neighbor_control import BOTH, WeightByMap, WeightByStep, as_curve, as_map_weights
from rag_diffusion.retrieval.query import Query, Searcher, SearchResults
from rag_diffusion.sampling.inputs import Exclude, Given, by_prompt, check_exclude, repeat
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.spans import span
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import DataSetVersion

NOTHING_TO_RETRIEVE = (
    "expected a retriever or neighbors by hand, got neither: drawing by the prompt alone. Give the pipeline a "
    'knowledge base, RetrievalPipeline.from_pretrained(..., retriever=KnowledgeBase.open(".")), or a neighbor, as in '
    'pipe("an apple", "photo.png"); num_neighbors=0 says that none are wanted'
)


@dataclass(frozen=True, kw_only=True)
class NeighborSource:
    """Neighbors of P prompts, B / P images each, the images of a prompt together.

    Args:
        prompts: P texts.
        images_per_prompt: B / P.
        given: by hand; None asks the retriever.
        retriever: finds them; a knowledge base asks its remotes as well, once a drawing.
        exclude: for each prompt, pair ids that must not be retrieved.
        count: neighbors a prompt, where they are retrieved.
        style_count: style neighbors a prompt beside them.
        style: the manner asked for, of the retriever's corpus; None takes the one that a prompt names.
        schedule: how many at most, whether to look again, and by how much of the image.
        where: which pairs may be retrieved.
        negative: by hand, to guide away from, beside all others.
        weight_by_step: of retrieved neighbors.
        weight_by_map: of retrieved neighbors.
        style_given: style neighbors by hand, of every prompt; they count among `style_count`, and the rest is to look
            like them.

    Raises:
        ValueError: one of them does not fit another.
    """

    prompts: Sequence[str]
    images_per_prompt: int
    given: Given | None
    retriever: Searcher | None
    exclude: Exclude
    count: int
    schedule: RetrievalSchedule
    style_count: int = 0
    style: str | None = None
    where: Filter = field(default_factory=Filter)
    negative: Given | None = None
    weight_by_step: WeightByStep = ()
    weight_by_map: WeightByMap = BOTH
    style_given: Sequence[Neighbor] = ()
    _found: list[SearchResults] = field(default_factory=list)  # of the P prompts, once they were searched

    def __post_init__(self) -> None:
        check_exclude(self.exclude, len(self.prompts), by_hand=self.given is not None)
        if self.schedule.query_again and (self.given is not None or self.retriever is None):
            raise ValueError("query_again: expected a retriever and no neighbors by hand; leave one of them out")
        if self.style_count and self.given is not None:
            raise ValueError(
                "num_style_neighbors: expected 0 with neighbors by hand; give some with role='style' instead"
            )
        if self.given is not None and (as_curve(self.weight_by_step) or as_map_weights(self.weight_by_map) != BOTH):
            raise ValueError(
                "weight_by_step, weight_by_map: expected neighbors from the retriever, got neighbors by hand; give "
                "each of them its own, as in Neighbor(..., weight_by_step='early')"
            )
        if self.where and (self.given is not None or self.retriever is None):
            got = "no retriever" if self.given is None else "neighbors by hand"
            raise ValueError(
                f"source, where: expected neighbors out of a knowledge base, got {got}; open one by "
                'KnowledgeBase.open(".")'
            )

    @property
    def corpus_hashes(self) -> list[str]:
        """Of what the prompt of each of B images was searched in; empty where none was."""
        return ["" if one is None else one.hash for one in self._searched]

    @property
    def data_sets(self) -> list[tuple[DataSetVersion, ...]]:
        """The data sets that the prompt of each of B images was searched in; none where it was not."""
        return [() if one is None else one.versions for one in self._searched]

    @property
    def trouble(self) -> list[tuple[str, ...]]:
        """For each of B images, which remotes did not send what they were asked for, and whether nothing fits."""
        trouble: list[tuple[str, ...]] = [()] * len(self.prompts)
        for results in self._found:
            weak = [results.weak_match(row) for row in range(len(self.prompts))]
            trouble = [(*results.trouble, *[one] * bool(one)) for one in weak]
        return [one for one in trouble for _ in range(self.images_per_prompt)]

    def first(self) -> list[list[Neighbor]]:
        """Neighbors of B images at the first step."""
        if self.given is not None:
            lists = by_prompt(self.given, self.prompts)
        elif self.retriever is None and self._most > 0:
            warnings.warn(NOTHING_TO_RETRIEVE, stacklevel=6)
            lists = [[] for _ in self.prompts]
        elif self._most == 0:
            lists = [[] for _ in self.prompts]
        else:
            lists = self._search(1, None)
        lists = self._with_those_by_hand(lists, 1)
        return [neighbors for neighbors in lists for _ in range(self.images_per_prompt)]

    def again(self, pixels: Pixels) -> list[list[Neighbor]]:
        """Neighbors of B images, `pixels` (B, H, W, 3) uint8 as they look so far."""
        return self._with_those_by_hand(self._search(self.images_per_prompt, pixels), self.images_per_prompt)

    def _with_those_by_hand(self, lists: list[list[Neighbor]], times: int) -> list[list[Neighbor]]:
        """Neighbors of each prompt, `times` over, and the style neighbors by hand and the negative ones after them."""
        lists = [[*neighbors, *self.style_given] for neighbors in lists]
        if self.negative is None:
            return lists
        negative = [own for own in by_prompt(self.negative, self.prompts) for _ in range(times)]
        return [
            [*neighbors, *(replace(neighbor, negative=True) for neighbor in own)]
            for neighbors, own in zip(lists, negative, strict=True)
        ]

    @property
    def _searched(self) -> list[Pairs | None]:
        """The pairs that the prompt of each of B images was searched in."""
        pairs: list[Pairs | None] = [None] * len(self.prompts)
        for results in self._found:
            pairs = [results.pairs(row) for row in range(len(self.prompts))]
        return [one for one in pairs for _ in range(self.images_per_prompt)]

    @property
    def _style_pixels(self) -> Pixels | None:
        """(m, H, W, 3) of the style neighbors by hand."""
        if not self.style_given or self.retriever is None:
            return None
        size = self.retriever.corpus.image_size
        return np.stack([neighbor.pixels(size) for neighbor in self.style_given])

    @property
    def _most(self) -> int:
        return self.schedule.most(self.count)

    def _search(self, times: int, pixels: Pixels | None) -> list[list[Neighbor]]:
        """Neighbors of every prompt, `times` over; the first search asks remotes, later ones are in what they sent."""
        searcher = self._found[0] if self._found else self.retriever
        assert searcher is not None
        empty = [number for number, text in enumerate(self.prompts) if not text.strip()]
        if empty:
            raise ValueError(
                f"prompt: expected a text to retrieve with, got an empty one at {empty}; give neighbors by hand, "
                "or draw without by num_neighbors=0"
            )
        query = Query(
            [text for text in self.prompts for _ in range(times)],
            top_k=self._most,
            where=self.where,
            exclude=repeat(self.exclude, times),
            images=pixels,
            image_weight=self.schedule.image_weight,
            style_top_k=max(0, self.style_count - len(self.style_given)),
            style=self.style,
            style_images=self._style_pixels,
        )
        with span("retrieve", "RETRIEVER", prompts=query.texts, top_k=self._most) as part:
            results = searcher.search(query)
            part.outputs = [asdict(found) for found in results.hits]
        if not self._found and times == 1:
            self._found.append(results)
        weights: dict[str, Any] = {"weight_by_step": self.weight_by_step, "weight_by_map": self.weight_by_map}
        return [
            [replace(neighbor, **weights) for neighbor in _neighbors(results, row)] for row in range(len(query.texts))
        ]


def _neighbors(results: SearchResults, row: int) -> list[Neighbor]:
    """Content neighbors of a text, then its style neighbors."""
    pairs, hits, style = results.pairs(row), results.hits[row], results.style[row]
    if pairs is None:
        return []
    content = neighbors_from(pairs, hits.pair_ids, hits.scores)
    return content + neighbors_from(pairs, style.pair_ids, style.scores, role="style")
