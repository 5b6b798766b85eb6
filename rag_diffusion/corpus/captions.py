"""Captions a person would write: what is drawn, in which style, sometimes of which kind.

Training captions and caption-like prompts come from `CAPTION_TEMPLATES`; `SENTENCE_TEMPLATES` are held out:
no pair of the corpus is captioned by one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rag_diffusion.readers.caption_text import with_article

CAPTION_TEMPLATES = (
    "{title}, {style} style",
    "{a_title} in {style} style",
    "{style} emoji of {a_title}",
    "a drawing of {a_title} in the {style} style",
    "{title}, drawn in the {style} style, {kind}",
    "an icon of {a_title}, {style} style",
    "{kind}: {title} in {style} style",
    "{title} emoji, {style}",
)
SENTENCE_TEMPLATES = (
    "please draw me {a_title} the way {style} would do it",
    "I need {a_title} for my birthday card, make it look like {style}",
    "what would {a_title} look like if {style} had designed it?",
    "a small {title} at night, with the look of {style}",
    "a sticker for my laptop that shows {a_title}, using {style} artwork",
    "two of them on a table: {title}, as {style} paints them",
)


def stable_hash(text: str) -> int:
    """A 64-bit number that depends on `text` alone, on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def describe(template: str, *, title: str, style: str, kind: str) -> str:
    """Fill one template.

    Args:
        template: with `{title}`, `{a_title}`, `{style}` and `{kind}`.
        title: the entity in words, e.g. `red apple`.
        style: the style in words, e.g. `Twemoji`.
        kind: the subgroup in words, e.g. `food fruit`.

    Returns:
        The caption.
    """
    return template.format(title=title, a_title=with_article(title), style=style, kind=kind)


def choose(templates: Sequence[str], key: str) -> str:
    """One of `templates`, always the same for a `key`."""
    return templates[stable_hash(key) % len(templates)]
