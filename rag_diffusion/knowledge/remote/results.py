"""What a machine not ours answers in clip-retrieval's protocol, checked entry by entry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.readers.records import Rejection
from rag_diffusion.types import SPLITS

MAX_CAPTION = 100_000  # characters
MAX_WORD = 1_000  # characters of a licence, a title, ...
_WORDS = ("licence", "attribution", "style", "title", "label", "split")


@dataclass(frozen=True, kw_only=True)
class KnnResult:
    """One checked entry of a remote's answer.

    Attributes:
        key: the remote's id, as a number.
        similarity: what the remote ranks by.
        caption: not empty.
        url: where the image lies; empty where `image` has it.
        image: base64; empty where it has to be fetched.
        words: licence, attribution, style, title, label and split, where the remote told them.
    """

    key: int
    similarity: float
    caption: str
    url: str
    image: str
    words: dict[str, str]


def parse_results(answer: Any, most: int) -> Iterator[KnnResult | Rejection]:
    """Entries of an answer of `/knn-service`, each checked by itself.

    Args:
        answer: parsed JSON.
        most: entries that were asked for; more are not looked at.

    Yields:
        Each entry that is one, in the order in which they came, and why the others are none.

    Raises:
        DataError: it is no list; a server that failed answers with an object and a message.
    """
    if not isinstance(answer, list):
        message = answer.get("message", answer.get("error", "")) if isinstance(answer, dict) else ""
        raise DataError(f"expected a list of results, got {type(answer).__name__} {str(message)[:200]}".rstrip())
    seen: set[int] = set()
    for number, entry in enumerate(answer[:most]):
        try:
            result = _entry(entry)
        except DataError as error:
            yield Rejection(what=f"result {number}", reason=str(error))
            continue
        if result.key in seen:
            yield Rejection(what=f"result {number}", reason=f"malformed id: {result.key} came before in this answer")
            continue
        seen.add(result.key)
        yield result
    if len(answer) > most:
        yield Rejection(what=f"results {most} to {len(answer) - 1}", reason=f"too many: {most} were asked for")


def parse_indices(answer: Any) -> list[str]:
    """Names in `answer`, the parsed JSON of `/indices-list`.

    Raises:
        DataError: it is no list of names.
    """
    if not (isinstance(answer, list) and answer and all(isinstance(name, str) and name for name in answer)):
        raise DataError(f"expected a list of index names, got {str(answer)[:200]}")
    return answer


def _entry(entry: Any) -> KnnResult:
    if not isinstance(entry, dict):
        raise DataError(f"malformed result: expected an object, got {type(entry).__name__}")
    key, similarity = entry.get("id"), entry.get("similarity")
    if isinstance(key, bool) or not isinstance(key, int) or not -(2**63) <= key < 2**64:
        raise DataError(f"malformed id: expected a 64-bit integer, got {_short(key)}")
    if isinstance(similarity, bool) or not isinstance(similarity, int | float) or not _finite(similarity):
        raise DataError(f"malformed similarity: expected a finite number, got {_short(similarity)}")
    caption, url, image = (entry.get(name) for name in ("caption", "url", "image"))
    if not isinstance(caption, str) or not caption.strip() or len(caption) > MAX_CAPTION:
        got = f"{len(caption)} characters" if isinstance(caption, str) else _short(caption)
        raise DataError(f"malformed caption: expected 1 to {MAX_CAPTION} characters, got {got}")
    if any(isinstance(part, str) and not _encodes(part) for part in (caption, url)):
        raise DataError("malformed text: expected characters, got half a surrogate pair")
    if not isinstance(image, str) or not image:
        image = ""
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise DataError(f"malformed url: expected http or https, got {_short(url)}")
    words = {name: text for name in _WORDS if isinstance(text := entry.get(name), str) and text and _encodes(text)}
    if words.get("split", "").lower() not in (*SPLITS, ""):
        raise DataError(f"unknown split: expected one of {', '.join(SPLITS)}, got {_short(words['split'])}")
    licence = entry.get("license")  # as LAION's tables spell it
    if isinstance(licence, str) and licence and "licence" not in words and _encodes(licence):
        words["licence"] = licence
    return KnnResult(
        key=key,
        similarity=float(similarity),
        caption=caption,
        url=url if isinstance(url, str) else "",
        image=image,
        words={name: text[:MAX_WORD] for name, text in words.items()},
    )


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond any float
        return False


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
