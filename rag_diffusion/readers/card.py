"""The licence that a data set's card names: YAML between two lines of dashes at the head of README.md."""

from __future__ import annotations

from pathlib import Path

import yaml

CARD = "README.md"
UNSPECIFIED = "unspecified"
_MOST = 1 << 20  # bytes that are read


def licence_of(path: Path, said: str) -> str:
    """The licence of images that name none: what somebody said, else what the card of their folder says.

    Args:
        path: of the images; a file has no card.
        said: empty, or `UNSPECIFIED`, where nobody said one.
    """
    return (card_licence(path) or said) if said in ("", UNSPECIFIED) else said


def card_licence(folder: Path) -> str:
    """What `license` (or `licence`) of a folder's card says; several are joined; empty where nothing does.

    Args:
        folder: may hold a README.md, as those of Hugging Face do.
    """
    path = folder / CARD
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return licence_in(file.read(_MOST))


def licence_in(text: str) -> str:
    """What `license` (or `licence`) in the head of a card, its `text`, says; empty where nothing does."""
    parts = text[:_MOST].split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return ""
    try:
        fields = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return ""
    value = (fields.get("license") or fields.get("licence") or "") if isinstance(fields, dict) else ""
    return " AND ".join(map(str, value)) if isinstance(value, list) else str(value)
