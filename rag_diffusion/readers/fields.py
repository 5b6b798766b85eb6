"""What others call the fields of a pair, and paths that lead nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rag_diffusion.readers.captioned import caption_of
from rag_diffusion.readers.labels import NAMES, labels_of
from rag_diffusion.readers.records import Item

CAPTIONS = ("caption", "text", "captions", "TEXT", "prompt", "description", "alt_text", "sentence")
KNOWN = frozenset(name for names in NAMES.values() for name in names)


def make_item(name: str, image: bytes, caption: str, fields: Mapping[str, Any]) -> Item:
    """An item with what its row says besides: the first known name of each field that holds a text or a number."""
    told = labels_of(fields)
    return Item(name=name, image=image, caption=caption, label=told.pop("entity", ""), side=0, **told)


def caption_in(fields: Mapping[str, Any], keys: Collection[str] = CAPTIONS) -> str:
    """The caption that a row holds, empty where it holds none."""
    return caption_of(fields, keys)


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
