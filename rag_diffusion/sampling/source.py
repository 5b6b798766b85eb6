"""Where the neighbors of a drawing come from: the retriever, a knowledge base with remotes, or the caller's hand."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from typing_extensions import TypeIs

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.sampling.inputs import Exclude, Given, by_prompt, check_exclude, repeat
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.spans import span
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import DataSetVersion, Hits

if TYPE_CHECKING:
    from rag_diffusion.knowledge.everywhere import Everywhere
    from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
    from rag_diffusion.retrieval.retriever import Retriever

NOTHING_TO_RETRIEVE = (
    "expected a retriever or neighbors by hand, got neither: drawing by the prompt alone. Give the pipeline a "
    'knowledge base, RetrievalPipeline.from_pretrained(..., retriever="."), or a neighbor, as in '
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

    Raises:
        ValueError: one of them does not fit another.
    """

    prompts: Sequence[str]
    images_per_prompt: int
    given: Given | None
    retriever: Retriever | KnowledgeBase | None
    exclude: Exclude
    count: int
    schedule: RetrievalSchedule
    style_count: int = 0
    style: str | None = None
    where: Filter = field(default_factory=Filter)
    _weak: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_exclude(self.exclude, len(self.prompts), by_hand=self.given is not None)
        if self.schedule.query_again and (self.given is not None or self.retriever is None):
            raise ValueError("query_again: expected a retriever and no neighbors by hand; leave one of them out")
        if self.style_count and self.given is not None:
            raise ValueError(
                "num_style_neighbors: expected 0 with neighbors by hand; give some with role='style' instead"
            )

        if self.where and (self.given is not None or not _is_knowledge_base(self.retriever)):
            raise ValueError(
                "source, where: expected neighbors out of a knowledge base, got "
                f"{'neighbors by hand' if self.given is not None else 'a retriever of one corpus'}; open one by "
                'RetrievalPipeline.from_pretrained(..., retriever="."), or use exclude'
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
        if not self._looks:
            return [()] * (len(self.prompts) * self.images_per_prompt)
        told = [(*self._everywhere.trouble, *self._weak.get(prompt, ())) for prompt in self.prompts]
        return [one for one in told for _ in range(self.images_per_prompt)]

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
        return [one for one in lists for _ in range(self.images_per_prompt)]

    def again(self, pixels: Pixels) -> list[list[Neighbor]]:
        """Neighbors of B images (B, H, W, 3) as they look so far."""
        return self._search(self.images_per_prompt, pixels)

    @property
    def _searched(self) -> list[Pairs | None]:
        """The pairs that the prompt of each of B images was searched in."""
        found: list[Pairs | None] = [None] * len(self.prompts)
        if self._looks:
            found = [None if one is None else one.corpus for one in self._everywhere.retrievers]
        return [one for one in found for _ in range(self.images_per_prompt)]

    @property
    def _looks(self) -> bool:
        """Whether anything is looked for."""
        return self.given is None and self.retriever is not None and self._most > 0

    @property
    def _most(self) -> int:
        return self.schedule.most(self.count)

    @cached_property
    def _everywhere(self) -> Everywhere:
        """Where the P prompts are searched."""
        from rag_diffusion.knowledge.everywhere import Everywhere

        if _is_knowledge_base(self.retriever):
            return self.retriever.everywhere(self.prompts, top_k=self._most, where=self.where or None)
        assert self.retriever is not None
        return Everywhere(retrievers=[self.retriever] * len(self.prompts))

    def _search(self, times: int, pixels: Pixels | None) -> list[list[Neighbor]]:
        """Neighbors of every prompt, `times` over."""
        assert self.retriever is not None
        empty = [number for number, text in enumerate(self.prompts) if not text.strip()]
        if empty:
            raise ValueError(
                f"prompt: expected a text to retrieve with, got an empty one at {empty}; give neighbors by hand, "
                "or draw without by num_neighbors=0"
            )
        prompts = [text for text in self.prompts for _ in range(times)]
        with span("retrieve", "RETRIEVER", prompts=prompts, top_k=self._most) as part:
            places = self._everywhere.repeated(times)
            hits = places.search(
                prompts,
                top_k=self._most,
                exclude=repeat(self.exclude, times),
                where=self.where or None,
                query_images=pixels,
                image_weight=self.schedule.image_weight,
            )
            part.outputs = [asdict(found) for found in hits]
        from rag_diffusion.retrieval.weakness import weak_match

        for prompt, one, found in zip(prompts, places.retrievers, hits, strict=True):
            sentence = "" if one is None else weak_match(one, prompt, found)
            self._weak.setdefault(prompt, (sentence,) if sentence else ())
        excluded = repeat(self.exclude, times) or [()] * len(prompts)
        return [
            []
            if one is None
            else neighbors_from(one.corpus, found.pair_ids, found.scores) + self._style(one, prompt, found, names)
            for one, prompt, found, names in zip(places.retrievers, prompts, hits, excluded, strict=True)
        ]

    def _style(self, retriever: Retriever, prompt: str, hits: Hits, exclude: Collection[str]) -> list[Neighbor]:
        """Style neighbors of a prompt."""
        if not self.style_count:
            return []
        style = self.style or retriever.style_named_in(prompt)
        if style is None:
            raise ValueError(
                f"style: expected a style, or a prompt that names one of the knowledge base, got {prompt!r}; give "
                "style, or num_style_neighbors=0"
            )
        found = retriever.search_style(prompt, style, top_k=self.style_count, unlike=hits.pair_ids, exclude=exclude)
        return neighbors_from(retriever.corpus, found.pair_ids, found.scores, role="style")


def _is_knowledge_base(retriever: Retriever | KnowledgeBase | None) -> TypeIs[KnowledgeBase]:
    from rag_diffusion.knowledge.knowledge_base import KnowledgeBase

    return isinstance(retriever, KnowledgeBase)
