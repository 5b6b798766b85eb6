"""What is searched for, and what those who search and draw see of a search: nothing here loads an index or a model.

Shapes: Q texts, D width of the encoder's space, H/W/C image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Protocol

from rag_diffusion.arrays import Floats, Pixels
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import Hits

DEADLINE = 10.0  # seconds for all that remotes are to send
_PER_TEXT = ("exclude", "exclude_images", "vectors", "images")


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for: many texts at a time, each by itself.

    Attributes:
        texts: Q of them.
        top_k: hits asked for, for each text; fewer come where there are fewer, or `retrieval.selection` takes fewer.
        sets: names of the data sets that are searched alone, so that words and scores are those of these alone; None
            is all, remote ones too.
        where: which pairs may come.
        exclude: for each text, pair ids that must not come; of remote pairs also such as were not sent.
        without_duplicates: whether near-duplicates of the excluded pairs must not come either, in no data set.
        exclude_images: (Q, H, W, 3), for each text a picture that must not come, nor a near-duplicate of it.
        vectors: (Q, D) unit vectors of the texts where they are known.
        images: (Q, H, W, 3) that the hits are to look like as well.
        image_weight: share of the images in the score, 0 to 1; the rest is that of the texts.
        style_top_k: style neighbors asked for beside the hits: other things, in a style.
        style: that style, of the pairs or in words; None takes the one that a text names.
        style_images: (m, H, W, 3) pictures in that style, for all texts; None where there are none.
        deadline: seconds for all that remotes are to send, images included.

    Raises:
        ValueError: there is another number of something than of texts.

    Examples:
        >>> from rag_diffusion import Filter, KnowledgeBase, Query
        >>> base = KnowledgeBase.open(".")
        >>> query = Query(["a red circle", "a blue square"], top_k=1, where=Filter(sources=("photos",)))
        >>> results = base.search(query)
        >>> [hits.pair_ids for hits in results.hits], results.trouble
        ([('photos/red.png',), ('photos/blue.png',)], ())
    """

    texts: Sequence[str]
    _: KW_ONLY
    top_k: int = 10
    sets: Collection[str] | None = None
    where: Filter = field(default_factory=Filter)
    exclude: Sequence[Collection[str]] | None = None
    without_duplicates: bool = False
    exclude_images: Pixels | None = None
    vectors: Floats | None = None
    images: Pixels | None = None
    image_weight: float = 0.5
    style_top_k: int = 0
    style: str | None = None
    style_images: Pixels | None = None
    deadline: float = DEADLINE

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise ValueError(f"texts: expected a list of texts, got one text; write Query([{self.texts!r}])")
        for name in _PER_TEXT:
            given = getattr(self, name)
            if given is not None and len(given) != len(self.texts):
                raise ValueError(f"{name}: expected one for each of {len(self.texts)} texts, got {len(given)}")

    def part(self, rows: Sequence[int]) -> Query:
        """The same for some of the texts, by their places `rows`."""
        own = {name: given[rows] for name in _PER_TEXT[1:] if (given := getattr(self, name)) is not None}
        exclude = None if self.exclude is None else [self.exclude[row] for row in rows]
        return replace(self, texts=[self.texts[row] for row in rows], exclude=exclude, **own)


class SearchResults(Protocol):
    """What was found, and the pairs that were searched, in which one can search again."""

    @property
    def hits(self) -> Sequence[Hits]:
        """Of each text."""
        ...

    @property
    def style(self) -> Sequence[Hits]:
        """Style neighbors of each text; none where none were asked for."""
        ...

    @property
    def trouble(self) -> tuple[str, ...]:
        """Which remote data sets did not send what they were asked for, in words; empty where all did."""
        ...

    def pairs(self, row: int) -> Pairs | None:
        """The pairs that text `row` was searched in, those of its hits among them; None where there was not one."""
        ...

    def weak_match(self, row: int) -> str:
        """A sentence where no hit of text `row` is much like it; empty where one is."""
        ...

    def search(self, query: Query) -> SearchResults:
        """Search for `query` in the very same pairs, also in what remotes sent: each text in what was sent for it."""
        ...


class Searcher(Protocol):
    """What finds pairs: a knowledge base, or a retriever of fixed pairs."""

    @property
    def corpus(self) -> Pairs:
        """The pairs that lie here, at this moment."""
        ...

    def search(self, query: Query) -> SearchResults:
        """The best pairs of every text of `query`."""
        ...
