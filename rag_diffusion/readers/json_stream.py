"""A large JSON object element by element, so that a file of annotations need not fit in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

MAX_ELEMENT = 1 << 20  # characters of one element of an array
_CHUNK = 1 << 16
_SPACE = " \t\r\n"
_AFTER = f",:]}}{_SPACE}"


def array_elements(file: TextIO) -> Iterator[tuple[str, Any]]:
    """Elements of every array that stands at the top of a JSON object, with the array's key.

    Values at the top that are no arrays are passed over.

    Args:
        file: opened text.

    Raises:
        ValueError: no JSON object, one that is cut, or an element of more than `MAX_ELEMENT` characters.
    """
    text = _Text(file)
    text.expect("{")
    if text.peek() == "}":
        return
    while True:
        key = str(text.value())
        text.expect(":")
        if text.peek() == "[":
            text.expect("[")
            yield from ((key, element) for element in _elements(text))
        else:
            text.value()
        if text.expect(",}") == "}":
            return


def _elements(text: _Text) -> Iterator[Any]:
    if text.peek() == "]":
        text.expect("]")
        return
    while True:
        yield text.value()
        if text.expect(",]") == "]":
            return


class _Text:
    """A window that slides over a file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._window = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._window):
                if self._window[self._at] not in _SPACE:
                    return self._window[self._at]
                self._at += 1
            if not self._more():
                return ""

    def expect(self, characters: str) -> str:
        """Step over one of the characters."""
        character = self.peek()
        if not character or character not in characters:
            raise ValueError(f"expected one of {characters!r}, got {character or 'the end'!r}")
        self._at += 1
        return character

    def value(self) -> Any:
        """Parse one value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
                whole = self._window[end : end + 1] in _AFTER and end < len(self._window)  # else a number may go on
            except RecursionError:
                raise ValueError("nested too deep") from None
            except ValueError as error:
                value, end, whole = error, self._at, False
            if whole or not self._more():
                if isinstance(value, ValueError):
                    raise value
                self._at = end
                return value

    def _more(self) -> bool:
        if len(self._window) - self._at > MAX_ELEMENT:
            raise ValueError(f"an element of more than {MAX_ELEMENT} characters, or no JSON")
        chunk = self._file.read(_CHUNK)
        self._window = self._window[self._at :] + chunk
        self._at = 0
        return bool(chunk)
