"""What the page does when something is pressed; texts and pieces of HTML come out, and nothing here knows gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rag_diffusion.errors import ConfigError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.page import cards
from rag_diffusion.page.form import Form, checked_prompt
from rag_diffusion.page.session import Session
from rag_diffusion.page.streaming import Drawer
from rag_diffusion.page.uploads import as_neighbors, opened
from rag_diffusion.page.words import changes
from rag_diffusion.project import nothing_to_retrieve, retrieval_options
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.retrieval.query import Query
from rag_diffusion.sampling.studio import Picture, Variant, choose_seeds
from rag_diffusion.serving.drawing_queue import Preview
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.where import parse_where

ALL = "all data sets"
Insert = Callable[..., tuple[Manifest, list[Rejection]]]
_NOTHING = (
    "nothing can be retrieved here yet: {trouble}\nDrop pictures of your own, or draw without neighbors, or make a "
    "knowledge base: `make demo`"
)


@dataclass(frozen=True, kw_only=True)
class View:
    """What stands on the page: pieces of HTML."""

    figures: str
    neighbors: str
    history: str


class Handlers:
    """The page's doings, for all visitors.

    Args:
        base: is searched, and taken into.
        drawer: draws.
        insert: takes pairs, as `KnowledgeBase.insert`.
    """

    def __init__(self, base: KnowledgeBase, drawer: Drawer, insert: Insert) -> None:
        self.base, self.drawer, self._insert = base, drawer, insert
        self.sign = drawer.queue.sign

    def view(self, session: Session) -> View:
        """The page as it is for `session`."""
        entries, last = session.standing, session.last
        return View(
            figures=cards.figures(entries, heat_of=session.chosen, sign=self.sign),
            neighbors=cards.neighbors(session.neighbors, last, [session.chosen]),
            history=cards.history(session.entries),
        )

    def head(self) -> str:
        """Which model and how many pairs, in words; waits until the model is there.

        Raises:
            ModelError: there is none.
        """
        trouble = nothing_to_retrieve(self.base)
        size = f"{self.sizes()[-1][0]} pixels"
        if trouble:
            return f"The model draws {size}. Nothing can be retrieved here yet: drop pictures of your own as neighbors."
        return f"The model draws {size}; {len(self.base.corpus):,} pairs can be retrieved."

    def sizes(self) -> list[tuple[str, int]]:
        """What the model can draw, and how many stages of a cascade that takes; waits until it is there."""
        pipeline = self.drawer.pipeline
        sides = [pipeline.generator.image_size, *(stage.model.image_size for stage in pipeline.stages)]
        return [(f"{side} × {side}", number) for number, side in enumerate(sides, start=1)]

    def can_retrieve(self) -> bool:
        """Whether there is anything to retrieve."""
        return not nothing_to_retrieve(self.base)

    def draw(self, session: Session, form: Form, *, compare: bool = False) -> Iterator[View]:
        """Draw what the form asks for.

        Args:
            session: of the visitor.
            form: the fields.
            compare: also without neighbors, from the same noise.

        Yields:
            The page after every step.

        Raises:
            RagDiffusionError, ValueError: it cannot be drawn.
        """
        prompt, last = checked_prompt(form.prompt), session.last
        if compare and form.variant == "none":
            raise ConfigError("compare: expected neighbors to compare with, got none; choose some under Neighbors")
        given = session.neighbors if form.variant == "given" else ()
        if form.variant == "given" and not given:
            raise ConfigError("neighbors by hand: expected some, got none; drop pictures of your own, or search")
        if form.variant in ("retrieved", "random") and (trouble := nothing_to_retrieve(self.base)):
            raise ConfigError(_NOTHING.format(trouble=trouble))
        variants: list[Variant] = ["none", form.variant] if compare else [form.variant]
        seed = form.seed
        if compare and seed is None and last is not None and last.picture.provenance.prompt == prompt:
            seed = last.picture.provenance.seed
        yield from self._draw(session, form, prompt, seed, variants, given, "")

    def draw_again(self, session: Session, form: Form) -> Iterator[View]:
        """Draw the last picture again from the same noise, with the neighbors as they are in the panel now.

        Args:
            session: of the visitor.
            form: the fields; prompt and seed are those of the picture.

        Yields:
            The page after every step.

        Raises:
            RagDiffusionError, ValueError: it cannot be drawn.
        """
        last = session.last
        if last is None:
            raise ConfigError("draw again: expected a picture, got none yet; draw one")
        origin = last.picture.provenance
        variants: list[Variant] = ["given" if session.neighbors else "none"]
        lineage = changes(session.neighbors, last)
        yield from self._draw(session, form, origin.prompt, origin.seed, variants, session.neighbors, lineage)

    def _draw(
        self,
        session: Session,
        form: Form,
        prompt: str,
        seed: int | None,
        variants: Sequence[Variant],
        given: Sequence[Neighbor],
        lineage: str,
    ) -> Iterator[View]:
        (seed,) = choose_seeds(seed, 1)
        before, done = self.view(session), list[Picture]()
        given, options = tuple(given), form.options | retrieval_options(self.base.config)
        options["where"] = parse_where([text for text in form.where.split(",") if text.strip()], options["where"])
        for news in self.drawer.stream(prompt, seed, variants, given, int(form.num_neighbors), options):
            if isinstance(news, Preview):
                growing = (news, variants[len(done)])
                yield replace(before, figures=cards.figures(session.as_entries(done), growing))
            else:
                done.append(news)
        session.add(done, given, lineage)
        yield self.view(session)

    def touch(self, session: Session, place: int) -> Neighbor | None:
        """Touch the neighbor at `place` of the panel of `session`, or let it go where it was touched before.

        Returns:
            The neighbor that is touched now.
        """
        if not 0 <= place < len(session.neighbors):
            return None
        neighbor = session.neighbors[place]
        session.chosen = "" if session.chosen == neighbor.name else neighbor.name
        return neighbor if session.chosen else None

    def change(self, session: Session, **control: Any) -> None:
        """Use the touched neighbor of `session` otherwise.

        Args:
            session: of the visitor.
            **control: fields of `Neighbor`.

        Raises:
            ValueError: one is out of its range.
        """
        name = session.chosen
        session.neighbors = tuple(
            replace(neighbor, **control) if neighbor.name == name else neighbor for neighbor in session.neighbors
        )

    def drop(self, session: Session, files: Sequence[str], licence: str) -> str:
        """Take dropped files as neighbors by hand.

        Args:
            session: gets them in place of those in its panel.
            files: paths on this machine.
            licence: of pictures that name none.

        Returns:
            What was taken and what was not, in words.

        Raises:
            DataError: nothing was.
        """
        with opened(files) as reader:
            taken, rejected = as_neighbors(reader, self.base.writer.decode, licence.strip())
        session.neighbors, session.chosen, session.shown = tuple(taken), "", ()
        left = "".join(f"; not taken: {one.what}, {one.reason}" for one in rejected[:3])
        return f"{len(taken)} neighbors by hand{left}"

    def search(self, session: Session, text: str, top_k: int, data_set: str) -> str:
        """Search the knowledge base alone.

        Args:
            session: gets the hits.
            text: what the pictures are to show.
            top_k: hits asked for.
            data_set: by name, or `ALL`.

        Returns:
            What is the matter with the hits, in words; empty where nothing is.

        Raises:
            ConfigError: the text is empty.
            DataError: there is nothing to search.
        """
        where = Filter() if data_set in ("", ALL) else Filter(sources=(data_set,))
        results = self.base.search(Query([checked_prompt(text)], top_k=int(top_k), where=where))
        pairs, (hits,) = results.pairs(0), results.hits
        session.hits = () if pairs is None else tuple(neighbors_from(pairs, hits.pair_ids, hits.scores))
        session.picked = ()
        weak = results.weak_match(0)
        return "\n".join([*results.trouble, *[weak] * bool(weak)])

    def pick(self, session: Session, place: int) -> None:
        """Touch the hit at `place` of the last search of `session`, or let it go."""
        if 0 <= place < len(session.hits):
            name = session.hits[place].name
            without = tuple(one for one in session.picked if one != name)
            session.picked = without if name in session.picked else (*session.picked, name)

    def hits(self, session: Session) -> str:
        """The hits of `session` as HTML."""
        return cards.neighbors(session.hits, None, session.picked, hint="Nothing was searched for yet.", kind="hits")

    def take_hits(self, session: Session) -> None:
        """Make the touched hits of `session` the neighbors of its next drawing.

        Raises:
            ConfigError: none was touched.
        """
        if not session.picked:
            raise ConfigError("neighbors: expected hits that were touched, got none; touch the ones that you want")
        session.neighbors = tuple(one for one in session.hits if one.name in session.picked)
        session.chosen, session.shown = "", ()

    def add(self, files: Sequence[str], name: str, licence: str, attribution: str) -> str:
        """Take dropped files into a data set of the knowledge base; the next query finds them.

        Args:
            files: paths on this machine.
            name: of the data set.
            licence: of pictures that name none.
            attribution: the same.

        Returns:
            What was taken and what was not, in words.

        Raises:
            ConfigError: no licence, or no name that a data set may have.
            DataError: nothing was taken.
        """
        if not licence.strip():
            raise ConfigError("licence: expected the licence of your pictures, as CC0-1.0, got none; name it")
        said = {"licence": licence.strip()} | ({"attribution": attribution.strip()} if attribution.strip() else {})
        before = {one.manifest.name: one.manifest.num_pairs for one in self.base.list()}
        with opened(files) as reader:
            entries: Iterator[Item | Rejection] = iter(reader)
            manifest, rejected = self._insert(name.strip(), entries, **said)
        new = manifest.num_pairs - before.get(manifest.name, 0)
        left = "".join(f"; not taken: {one.what}, {one.reason}" for one in rejected[:3])
        return f"{new} pairs taken into {manifest.name}, which has {manifest.num_pairs} now{left}"

    def data_sets(self) -> list[list[str]]:
        """Name, number of pairs and licence of each data set, and what is the matter with it, in words."""
        return [
            [
                one.manifest.name,
                str(one.manifest.num_pairs),
                one.manifest.licence or "each its own",
                one.trouble or "ready",
            ]
            for one in self.base.list()
        ]
