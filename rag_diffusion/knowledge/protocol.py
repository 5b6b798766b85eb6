"""clip-retrieval's protocol: what is asked, what is answered, and how an answer of a machine not ours is checked.

    POST /knn-service   text, image (base64), image_url or embedding_input -> [{id, similarity, caption, url, ...}]
    POST /metadata      ids                                                -> [{id, metadata: {caption, url, ...}}]
    GET  /indices-list                                                     -> [name, ...]

Beyond it, and ignored by its own servers: `with_images` asks for images as base64 in the field `image` (which its own
servers send wherever they have a path), `where` and `exclude` filter, and answers tell `pair_id`, `source`, `licence`
and so on. `use_mclip`, `use_safety_model`, `use_violence_detector`, `aesthetic_score` and `aesthetic_weight` are taken
and have no effect, as on a server of its own that was started without those models.

Source: clip-retrieval 2.45, clip_back.py and clip_client.py.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rag_diffusion.errors import DataError
from rag_diffusion.knowledge.records import Rejection

KNN, METADATA, INDICES = "knn-service", "metadata", "indices-list"
MAX_TEXT = 10_000  # characters of a query
MAX_WIDTH = 8192  # numbers of a query by vector
MAX_IMAGES = 1_000  # results with metadata
MAX_IDS = 10_000  # results in all; clip-retrieval's web page asks for 3000
MAX_IMAGE_BYTES = 2**25  # of one encoded image
MAX_CAPTION = 100_000  # characters of a remote's caption

_ID_BITS = 63
_WORDS = ("licence", "attribution", "style", "title", "label")


def global_id(pair_id: str) -> int:
    """The protocol's id of a pair: the first 63 bits of its id's sha256, so that it is the same on every machine."""
    return int.from_bytes(hashlib.sha256(pair_id.encode()).digest()[:8], "big") >> (64 - _ID_BITS)


class Where(BaseModel):
    """Pairs that may come; an empty list lets all through."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: tuple[str, ...] = ()
    label: tuple[str, ...] = Field(default=(), alias="class")
    licence: tuple[str, ...] = ()
    split: tuple[str, ...] = ()


class KnnRequest(BaseModel):
    """A query; of text, image, image_url and embedding_input the first that is there counts, as on their servers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str | None = Field(default=None, max_length=MAX_TEXT)
    image: str | None = None
    image_url: str | None = None
    embedding_input: tuple[float, ...] | None = Field(default=None, max_length=MAX_WIDTH)
    modality: Literal["image", "text"] = "image"
    num_images: int = Field(default=40, ge=0, le=MAX_IMAGES)
    num_result_ids: int | None = Field(default=None, ge=0, le=MAX_IDS)
    indice_name: str | None = None
    deduplicate: bool = False
    with_images: bool = False
    where: Where = Where()
    exclude: tuple[str, ...] = Field(default=(), max_length=MAX_IDS)

    @field_validator("text", "image", "image_url", mode="after")
    @classmethod
    def _none_for_empty(cls, value: str | None) -> str | None:
        return value if value and value.strip() else None

    @field_validator("embedding_input", mode="after")
    @classmethod
    def _finite(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (value and all(math.isfinite(one) for one in value) and any(value)):
            raise ValueError("expected finite numbers that are not all zero")
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> KnnRequest:
        if all(given is None for given in (self.text, self.image, self.image_url, self.embedding_input)):
            raise ValueError("expected one of text, image, image_url and embedding_input, got none")
        return self

    @property
    def num_results(self) -> int:
        """Results asked for, with metadata or without."""
        return self.num_images if self.num_result_ids is None else self.num_result_ids

    @property
    def needs_fetch(self) -> bool:
        """Whether its image has to be fetched from elsewhere."""
        return self.text is None and self.image is None and self.image_url is not None


class MetadataRequest(BaseModel):
    """Ids whose metadata is asked for."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ids: tuple[int, ...] = Field(max_length=MAX_IDS)
    indice_name: str | None = None
    with_images: bool = False


def text_query(text: str, *, index: str | None, top_k: int) -> dict[str, Any]:
    """A message to any server of the protocol that asks for the best `top_k` images of a text, with all it knows.

    Near-duplicates are left in: its own servers take two pictures for one from a cosine of 0.94 on, which leaves one of
    five where all pictures are of a kind, as icons are.
    """
    return {
        "text": text,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "modality": "image",
        "num_images": top_k,
        "num_result_ids": top_k,
        "indice_name": index,
        "use_mclip": False,
        "deduplicate": False,
        "use_safety_model": False,
        "use_violence_detector": False,
        "aesthetic_score": "",
        "aesthetic_weight": "",
        "with_images": True,
    }


def decode_base64(text: str, what: str, most: int) -> bytes:
    """Bytes of a base64 text, with or without `data:...;base64,` before it.

    Args:
        text: what came.
        what: name used in the error.
        most: bytes that it may have.

    Raises:
        DataError: it is none, empty or too long.
    """
    bare = text.partition(",")[2] if text.startswith("data:") else text
    if len(bare) > most * 4 // 3 + 8:
        raise DataError(f"too large: expected at most {most} bytes in {what}, got {len(bare)} characters of base64")
    try:
        content = base64.b64decode("".join(bare.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"not base64: expected an image as base64 in {what}, got {error}") from None
    if not content:
        raise DataError(f"empty image: expected an image as base64 in {what}, got none")
    return content


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One checked entry of a remote's answer.

    Attributes:
        key: the remote's id, as a number.
        similarity: what the remote ranks by.
        caption: not empty.
        url: where the image lies; empty where `image` has it.
        image: base64; empty where it has to be fetched.
        words: licence, attribution, style, title and label, where the remote told them.
    """

    key: int
    similarity: float
    caption: str
    url: str
    image: str
    words: dict[str, str]


def parse_answer(found: Any, most: int) -> Iterator[Answer | Rejection]:
    """Entries of an answer of `/knn-service`, each checked by itself.

    Args:
        found: parsed JSON.
        most: entries that were asked for; more are not looked at.

    Raises:
        DataError: it is no list; a server that failed answers with an object and a message.
    """
    if not isinstance(found, list):
        told = found.get("message", found.get("error", "")) if isinstance(found, dict) else ""
        raise DataError(f"expected a list of results, got {type(found).__name__} {str(told)[:200]}".rstrip())
    seen: set[int] = set()
    for number, entry in enumerate(found[:most]):
        try:
            answer = _entry(entry)
        except DataError as error:
            yield Rejection(what=f"result {number}", reason=str(error))
            continue
        if answer.key in seen:
            yield Rejection(what=f"result {number}", reason=f"malformed id: {answer.key} came before in this answer")
            continue
        seen.add(answer.key)
        yield answer
    if len(found) > most:
        yield Rejection(what=f"results {most} to {len(found) - 1}", reason=f"too many: {most} were asked for")


def parse_indices(found: Any) -> list[str]:
    """Names of an answer of `/indices-list`.

    Raises:
        DataError: it is no list of names.
    """
    if not (isinstance(found, list) and found and all(isinstance(name, str) and name for name in found)):
        raise DataError(f"expected a list of index names, got {str(found)[:200]}")
    return found


def _entry(entry: Any) -> Answer:
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
    licence = entry.get("license")  # as LAION's tables spell it
    if isinstance(licence, str) and licence and "licence" not in words and _encodes(licence):
        words["licence"] = licence
    return Answer(
        key=key,
        similarity=float(similarity),
        caption=caption,
        url=url if isinstance(url, str) else "",
        image=image,
        words={name: text[:1000] for name, text in words.items()},
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


def messages(errors: Sequence[Any]) -> str:
    """What pydantic found wrong, in one line: place and message of each."""
    return "; ".join(f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg']}" for one in errors)
