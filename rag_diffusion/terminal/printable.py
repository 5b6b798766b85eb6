"""Texts of other people on a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """`text` as a terminal can show it: control characters and marks of direction become spaces."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in text)
