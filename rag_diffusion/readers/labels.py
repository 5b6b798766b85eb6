"""What the fields of a row say of its picture: the same names mean the same to the corpus and to the knowledge base."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NAMES: Mapping[str, tuple[str, ...]] = {
    "entity": ("entity", "label", "class", "class_name"),
    "category": ("category",),
    "style": ("style",),
    "title": ("title",),
    "licence": ("licence", "license"),
    "attribution": ("attribution", "author", "artist", "creator", "credit"),
    "split": ("split",),
    "url": ("url", "source_url", "URL", "coco_url", "flickr_url"),
}


def first_of(fields: Mapping[str, Any], names: Collection[str]) -> str:
    """The first of some fields that holds a text or a number, as text; empty where none does."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value):
            return str(value)
    return ""


def labels_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """All of `NAMES` that a row has something for."""
    found = {name: first_of(fields, names) for name, names in NAMES.items()}
    return {name: value for name, value in found.items() if value}


def with_article(title: str) -> str:
    """`apple` -> `an apple`; plurals and names keep none."""
    first = title.split()[0]
    last = title.split()[-1]
    if first[0].isupper() or not first[0].isalpha() or (last.endswith("s") and not last.endswith("ss")):
        return title
    return f"{'an' if first[0].lower() in 'aeiou' else 'a'} {title}"
