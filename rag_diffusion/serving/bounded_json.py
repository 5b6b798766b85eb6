"""A JSON object whose cost is bounded before it is spent: lengths, number of values and depth are checked on its bytes.

What is parsed into Python's objects takes up to a hundred times the memory of its bytes, and a validator an error for
each of them. So the commas are counted first, then the object is cut into the bytes of its fields without making a
value of any, and only a field that is known and short enough becomes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rag_diffusion.errors import RagDiffusionError

MAX_VALUES = 2**16  # commas in a body; the longest list that any door takes has 10,000 values
MAX_FIELDS = 64
MAX_FIELD_NAME = 100  # characters
_SHOWN = 200  # characters of an error of the parser

_OUTLINE = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BodyError(RagDiffusionError):
    """A body that is not taken.

    Attributes:
        status: of the answer.
        retry_after: seconds until it may be taken, 0 where time alone changes nothing.
        code: by which programs know the error; empty for none.
    """

    def __init__(self, status: int, message: str, retry_after: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status, self.retry_after, self.code = status, retry_after, code


def check_values(count: int) -> None:
    """Check the number of commas, `count`, that a JSON body has, or what has come of it.

    Raises:
        BodyError: more than any object that a door takes.
    """
    if count > MAX_VALUES:
        raise BodyError(413, f"expected a JSON object of at most {MAX_VALUES} values, got more; send fewer at a time")


def parse_object(content: bytes, fields: Mapping[str, int], *, ascii_alone: str = "") -> dict[str, Any]:
    """A body that is a JSON object, whatever its content type says: clip-retrieval's client says none.

    Args:
        content: the body.
        fields: bytes that each known field may have in the body; others are not parsed and come as None.
        ascii_alone: a field whose text has no other characters, as base64 has none.

    Returns:
        Values by name.

    Raises:
        BodyError: it is none, or a field is too long.
    """
    check_values(content.count(b","))
    return {name: _value(name, raw, fields, ascii_alone) for name, raw in _outline(content).items()}


def _outline(content: bytes) -> dict[str, msgspec.Raw]:
    """The bytes of each field."""
    try:
        outline = _OUTLINE.decode(content)
    except msgspec.ValidationError as error:
        raise BodyError(400, f"expected a JSON object, got {str(error)[:_SHOWN]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        got = f"{len(content)} bytes that are no JSON: {str(error)[:_SHOWN]}"
        raise BodyError(400, f"expected a JSON object, got {got}") from None
    if len(outline) > MAX_FIELDS or any(len(name) > MAX_FIELD_NAME for name in outline):
        what = f"at most {MAX_FIELDS} fields with names of at most {MAX_FIELD_NAME} characters"
        raise BodyError(422, f"expected a JSON object of {what}, got others")
    return outline


def _value(name: str, raw: msgspec.Raw, fields: Mapping[str, int], ascii_alone: str) -> Any:
    if name not in fields:
        return None
    part = memoryview(raw)
    if len(part) > fields[name]:
        raise BodyError(422, f"{name}: expected at most {fields[name]} bytes, got {len(part)}")
    if name == ascii_alone and not bytes(part).isascii():
        raise BodyError(422, f"{name}: expected base64, got characters that it does not have")
    try:
        return msgspec.json.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(400, f"{name}: expected JSON, got {str(error)[:_SHOWN]}") from None
