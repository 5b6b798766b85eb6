"""Texts of other people on a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """A text that a terminal can show: control characters and marks of direction become spaces."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in text)
