"""Two entities in one prompt: does one drawing show both?

The ruler looks at whole drawings, as it does at those of one entity, and ranks all C candidates; both are shown where
they are the first two. Two real drawings side by side in one picture say how well the ruler can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Doubles, Pixels
from rag_diffusion.corpus.captions import describe
from rag_diffusion.metrics.ruler.entity import MIN_PROTOTYPE_STYLES, Prototypes
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.types import Prompt

TEMPLATES = ("{a_title} in {style} style", "{style} emoji of {a_title}")


@dataclass(frozen=True, kw_only=True)
class TwoPrompt:
    """A prompt of two entities, and the prompts of one that they come from."""

    prompt: Prompt
    first: Prompt
    second: Prompt


def two_entity_prompts(prompts: Sequence[Prompt], style_words: Mapping[str, str]) -> list[TwoPrompt]:
    """Prompts of the same style, two and two in their order; those of one family are never put together.

    Args:
        prompts: of one entity each.
        style_words: style to how a caption names it.
    """
    waiting: dict[str, Prompt] = {}
    found: list[TwoPrompt] = []
    for prompt in prompts:
        first = waiting.get(prompt.style)
        if first is None:
            waiting[prompt.style] = prompt
        elif first.family != prompt.family:
            found.append(_together(waiting.pop(prompt.style), prompt, style_words, len(found)))
    return found


def _together(first: Prompt, second: Prompt, style_words: Mapping[str, str], number: int) -> TwoPrompt:
    title = f"{first.title} and {with_article(second.title)}"
    template = TEMPLATES[number % len(TEMPLATES)]
    prompt = Prompt(
        prompt_id=f"{first.prompt_id}+{second.prompt_id}",
        split=first.split,
        entity=f"{first.entity}+{second.entity}",
        family=first.family,
        title=title,
        style=first.style,
        kind="two",
        text=describe(template, title=title, style=style_words[first.style], kind=""),
        default=first.default,
        seed=first.seed,
    )
    return TwoPrompt(prompt=prompt, first=first, second=second)


def shown_entities(
    prototypes: Prototypes, features: Doubles, prompt: TwoPrompt, hidden: frozenset[str]
) -> tuple[bool, bool]:
    """Whether a drawing shows either entity (it comes first of all candidates), and both (they are the first two).

    Args:
        prototypes: of the candidates.
        features: (k,) entity features of the drawing.
        prompt: what it was asked to show.
        hidden: styles that give no prototypes.
    """
    order = np.argsort(-prototypes.similarities(features[None], hidden)[0], kind="stable")[:2]
    asked = {prototypes.number(prompt.first.entity), prototypes.number(prompt.second.entity)}
    return int(order[0]) in asked, set(order.tolist()) == asked


def can_be_judged(prototypes: Prototypes, hidden: frozenset[str]) -> bool:
    """Whether enough styles are left for prototypes."""
    return len(set(prototypes.styles) - hidden) >= MIN_PROTOTYPE_STYLES


def collage(left: Pixels, right: Pixels) -> Pixels:
    """Two pictures (H, W, 3) at half their size, next to each other on white, (H, W, 3)."""
    height, width = left.shape[:2]
    canvas = Image.new("RGB", (width, height), "white")
    for number, picture in enumerate((left, right)):
        small = Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        canvas.paste(small, (number * (width // 2), height // 4))
    return np.asarray(canvas)
