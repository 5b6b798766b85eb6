"""What the ruler says about images drawn for prompts: right entity, right style, both.

N prompts, one image each; C candidate entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_diffusion.arrays import Doubles, Ints, Mask
from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.ruler.store import Looks, Ruler
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

METRICS = ("joint", "entity", "style", "style_check")


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Verdicts on N images.

    Attributes:
        entity, style, style_check: (N,) whether each scorer recognised what the prompt asked for.
        entity_guess, style_guess: what the entity scorer and the first style scorer took each image for.
        rows: (N,) numbers of the prompts that the images answer; None: all, in their order.
    """

    entity: Mask
    style: Mask
    style_check: Mask
    entity_guess: tuple[str, ...]
    style_guess: tuple[str, ...]
    rows: Ints | None = None

    @property
    def answers(self) -> Ints:
        """(N,) numbers of the prompts that the images answer."""
        return np.arange(len(self.entity)) if self.rows is None else self.rows

    @property
    def joint(self) -> Mask:
        """(N,) recognised as the entity and as the style; the second style scorer has no say."""
        return self.entity & self.style

    def values(self, metric: str) -> Doubles:
        """(N,) zeros and ones of `metric`, one of `METRICS`."""
        chosen: Mask = getattr(self, metric)
        return chosen.astype(np.float64)

    def at(self, prompts: Ints, metric: str) -> Doubles:
        """Zeros and ones of `metric` for the prompts numbered `prompts`, (n,), all of them answered, in that order."""
        rows = {int(number): row for row, number in enumerate(self.answers)}
        return self.values(metric)[[rows[int(number)] for number in prompts]]


class Judge:
    """The ruler applied to the prompts of a run.

    Args:
        ruler: the fixed scorers.
        prompts: the N prompts, of entities the ruler has never seen.
        prototypes: of the candidate entities.
        hidden: N sets of styles that give no prototypes, see `hidden_styles`.

    Raises:
        ModelError: the ruler has seen an entity.
        DataError: an entity stands in too few styles, or a style is unknown to the ruler.
    """

    def __init__(
        self, ruler: Ruler, prompts: Sequence[Prompt], prototypes: Prototypes, hidden: Sequence[frozenset[str]]
    ) -> None:
        ruler.refuse_seen(prototypes.entities)
        ruler.refuse_seen([prompt.entity for prompt in prompts])
        self._styles, self._prototypes, self._hidden = ruler.styles, prototypes, hidden
        self._entity = np.array([prototypes.number(prompt.entity) for prompt in prompts])
        self._style = np.array([ruler.styles.index(prompt.style) for prompt in prompts])
        self._means = {styles: prototypes.means(styles) for styles in set(hidden)}

    @property
    def chance(self) -> dict[str, float]:
        """What guessing at random would reach."""
        entities, styles = len(self._prototypes.entities), len(self._styles)
        return {"entity": 1 / entities, "style": 1 / styles, "joint": 1 / (entities * styles)}

    def verdicts(self, looks: Looks, rows: Ints | None = None) -> Verdicts:
        """Judge images, one for each prompt and in their order.

        Args:
            looks: at the images.
            rows: numbers of the prompts that they answer; None: all.

        Returns:
            (N,) whether each image is its entity, its style, and its style to a second scorer.
        """
        prompts = np.arange(len(self._entity)) if rows is None else rows
        guess = [self._similarities(looks.entity[image], int(row)).argmax() for image, row in enumerate(prompts)]
        entity = np.array(guess, dtype=np.int64)
        style, check = looks.style.argmax(axis=1), looks.style_check.argmax(axis=1)
        return Verdicts(
            entity=entity == self._entity[prompts],
            style=style == self._style[prompts],
            style_check=check == self._style[prompts],
            entity_guess=tuple(self._prototypes.entities[number] for number in entity),
            style_guess=tuple(self._styles[number] for number in style),
            rows=rows,
        )

    def margins(self, looks: Looks, rows: Ints | None = None) -> Doubles:
        """By how much each image is rather its entity, and its style, than the best other one; above 0: is.

        Args:
            looks: at the images.
            rows: numbers of the prompts that they answer; None: all.

        Returns:
            (N, 2).
        """
        prompts = np.arange(len(self._entity)) if rows is None else rows
        entity = [self._similarities(looks.entity[image], int(row)) for image, row in enumerate(prompts)]
        pairs = [(entity, self._entity[prompts]), (list(looks.style), self._style[prompts])]
        return np.array([[_margin(scores, own) for scores, own in zip(*pair, strict=True)] for pair in pairs]).T

    def candidate_verdict(self, looks: Looks, row: int, prompt: int) -> tuple[bool, bool]:
        """Entity and style verdict on an image as an answer to a prompt.

        Args:
            looks: at images.
            row: of the image.
            prompt: number of the prompt.
        """
        entity = self._similarities(looks.entity[row], prompt).argmax() == self._entity[prompt]
        return bool(entity), bool(looks.style[row].argmax() == self._style[prompt])

    def shuffled_joint(self, looks: Looks) -> float:
        """Mean joint verdict on images, by their `looks`, for every other prompt: chance, whatever the images are."""
        size = len(self._entity)
        style = looks.style.argmax(axis=1)
        joint = np.zeros((size, size), dtype=bool)
        for prompt in range(size):
            means = self._means[self._hidden[prompt]]
            joint[:, prompt] = ((looks.entity @ means.T).argmax(axis=1) == self._entity[prompt]) & (
                style == self._style[prompt]
            )
        return float(joint[~np.eye(size, dtype=bool)].mean())

    def _similarities(self, feature: Doubles, prompt: int) -> Doubles:
        product: Doubles = self._means[self._hidden[prompt]] @ feature
        return product


def _margin(scores: Doubles, own: int) -> float:
    return float(scores[own] - np.delete(scores, own).max())


def hidden_styles(prompt: Prompt, neighbors: PromptNeighbors, corpus: Corpus) -> frozenset[str]:
    """Styles that give no prototypes for a prompt: its own, and those in which a neighbor showed its entity.

    Args:
        prompt: whose entity and style.
        neighbors: of any variant of it.
        corpus: where they are.
    """
    rows = corpus.table.iloc[corpus.rows(dict.fromkeys((*neighbors.retrieved, *neighbors.oracle, *neighbors.random)))]
    own = rows.loc[rows["entity"] == prompt.entity, "style"]
    return frozenset({prompt.style, *own.tolist()})


def why_not_judged(corpus: Corpus, prompts: Sequence[Prompt], ruler: Ruler) -> str | None:
    """The reason why entity and style cannot be judged; None if they can.

    Args:
        corpus: whose kind is looked at.
        prompts: whose styles the ruler must know.
        ruler: the fixed scorers.
    """
    if corpus.manifest["kind"] != "iconify":
        return "the ruler knows the styles and entities of the default corpus, not those of a user's own"
    unknown = sorted({prompt.style for prompt in prompts} - set(ruler.styles))
    return f"the ruler was not trained on the styles {unknown}" if unknown else None
