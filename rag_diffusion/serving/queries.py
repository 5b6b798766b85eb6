"""What the server is asked in clip-retrieval's protocol, checked field by field.

Beyond the protocol, and ignored by its own servers: `with_images` asks for images as base64 in the field `image` (which
its own servers send wherever they have a path), `where` and `exclude` filter, and answers tell `pair_id`, `source`,
`licence` and so on. `use_mclip`, `use_safety_model`, `use_violence_detector`, `aesthetic_score` and `aesthetic_weight`
are taken and have no effect, as on a server of its own that was started without those models.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rag_diffusion.clip_protocol import MAX_IMAGE_BYTES, MAX_IMAGES, MAX_TEXT
from rag_diffusion.store.filters import Filter

MAX_WIDTH = 8192  # numbers of a query by vector
MAX_IDS = 10_000  # results in all; clip-retrieval's web page asks for 3000

MAX_NAMED = 1_000  # names in one filter
MAX_NAME = 2_000  # characters of a name in a filter or an exclusion
MAX_URL = 4096  # characters
MAX_BASE64 = MAX_IMAGE_BYTES * 11 // 8  # characters: 4 of 3 bytes, line ends, `data:...;base64,`

FIELDS = {  # bytes that each may have in a body; a character takes up to 12 where it is escaped
    "text": 12 * MAX_TEXT + 2,
    "image": MAX_BASE64,
    "image_url": 12 * MAX_URL + 2,
    "embedding_input": 40 * MAX_WIDTH,
    "where": 2**20,
    "exclude": 2**22,
    "ids": 2**20,
} | dict.fromkeys(("modality", "num_images", "num_result_ids", "indice_name", "deduplicate", "with_images"), 2**10)

_ID_BITS = 63
_SHOWN, _SHOWN_CHARACTERS = 5, 200  # errors, and characters of each, that an answer tells

Names = Annotated[tuple[Annotated[str, Field(max_length=MAX_NAME)], ...], Field(fail_fast=True, max_length=MAX_NAMED)]


def global_id(pair_id: str) -> int:
    """The protocol's id of the pair `pair_id`: the first 63 bits of its sha256, so that it is the same everywhere."""
    return int.from_bytes(hashlib.sha256(pair_id.encode()).digest()[:8], "big") >> (64 - _ID_BITS)


class Where(BaseModel):
    """Pairs that may come; an empty list lets all through."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: Names = ()
    label: Names = Field(default=(), alias="class")
    licence: Names = ()
    split: Names = ()

    @property
    def filter(self) -> Filter:
        """The same for a search."""
        return Filter(sources=self.source, classes=self.label, licences=self.licence, splits=self.split)


class KnnRequest(BaseModel):
    """A query; of text, image, image_url and embedding_input the first that is there counts, as on their servers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str | None = Field(default=None, max_length=MAX_TEXT)
    image: str | None = Field(default=None, max_length=MAX_BASE64)
    image_url: str | None = Field(default=None, max_length=MAX_URL)
    embedding_input: (
        Annotated[
            tuple[Annotated[float, Field(strict=True)], ...], Field(fail_fast=True, min_length=1, max_length=MAX_WIDTH)
        ]
        | None
    ) = None
    modality: Literal["image", "text"] = "image"
    num_images: int = Field(default=40, ge=0, le=MAX_IMAGES, strict=True)
    num_result_ids: int | None = Field(default=None, ge=0, le=MAX_IDS, strict=True)
    indice_name: str | None = None
    deduplicate: bool = Field(default=False, strict=True)
    with_images: bool = Field(default=False, strict=True)
    where: Where = Where()
    exclude: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_NAME)], ...], Field(fail_fast=True, max_length=MAX_IDS)
    ] = ()

    @field_validator("text", "image", "image_url", mode="after")
    @classmethod
    def _none_for_empty(cls, value: str | None) -> str | None:
        return value if value and value.strip() else None

    @field_validator("embedding_input", mode="after")
    @classmethod
    def _finite(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (value and all(map(math.isfinite, value)) and any(value)):
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

    ids: Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(fail_fast=True, max_length=MAX_IDS)]
    indice_name: str | None = None
    with_images: bool = Field(default=False, strict=True)


def messages(errors: Sequence[Any]) -> str:
    """Pydantic's `errors` in one line: place and message of the first few."""
    lines = [f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg']}" for error in errors[:_SHOWN]]
    more = [f"and {len(errors) - _SHOWN} more"] * (len(errors) > _SHOWN)
    return "; ".join([*(line[:_SHOWN_CHARACTERS] for line in lines), *more])
