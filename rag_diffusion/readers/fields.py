"""What the fields of a row say of its picture, by the names that people give them, and paths that lead nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rag_diffusion.readers.records import Item

CAPTIONS = ("caption", "text", "captions", "TEXT", "prompt", "description", "alt_text", "sentence")
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
KNOWN = frozenset(name for names in NAMES.values() for name in names)


def make_item(name: str, image: bytes, caption: str, fields: Mapping[str, Any]) -> Item:
    """An item with what its row says besides.

    Args:
        name: of the item.
        image: its file.
        caption: its text.
        fields: of its row; of the names in `NAMES` the first counts that holds a text or a number.
    """
    labels = labels_of(fields)
    return Item(name=name, image=image, caption=caption, label=labels.pop("entity", ""), side=0, **labels)


def caption_of(fields: Mapping[str, Any], keys: Collection[str] = CAPTIONS) -> str:
    """The first text that the `fields` of a row hold under `keys`; empty where there is none.

    Several texts in one field are put together; those by language, `{"en": "a cat", ...}`, become lines `en: a cat`.
    """
    for key in keys:
        value = fields.get(key)
        if isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        if isinstance(value, Mapping):
            value = "\n".join(f"{name}: {text}" for name, text in value.items() if isinstance(text, str))
        if isinstance(value, str) and value:
            return value
    return ""


def no_text(fields: Mapping[str, Any], keys: Collection[str] = CAPTIONS) -> str:
    """Why the one of the `fields` under `keys` that should hold a caption holds none; empty where there is no such."""
    wrong = [(key, fields[key]) for key in keys if fields.get(key) not in (None, "", [], {})]
    if not wrong or caption_of(fields, keys):
        return ""
    key, value = wrong[0]
    return f"caption is no text: {key} is {value!r}"[:200]


def first_of(fields: Mapping[str, Any], names: Collection[str]) -> str:
    """The first of the `fields` called `names` that holds a text or a number, as text; empty where none does."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value):
            return str(value)
    return ""


def labels_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """All of `NAMES` that the `fields` of a row have something for."""
    labels = {name: first_of(fields, names) for name, names in NAMES.items()}
    return {name: value for name, value in labels.items() if value}


def unsafe_path(name: str) -> str:
    """Why a path must not be followed, empty where it stays below its folder.

    Args:
        name: a path as an archive or a table has it, with `/` or, against the rules, with a backslash.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name:
        return "empty, or with a null byte"
    if name.startswith(("/", "\\")) or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return "absolute"
    if ".." in parts:
        return "leads out of its folder"
    return ""
