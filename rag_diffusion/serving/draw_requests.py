"""Bodies that ask for pictures: JSON and forms become checked fields, and files in them become pixels.

What strangers sent is decoded where every upload is, in a process of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request

from rag_diffusion.arrays import Pixels
from rag_diffusion.clip_protocol import MAX_IMAGE_BYTES, decode_base64
from rag_diffusion.errors import DataError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.serving.admission import Admission
from rag_diffusion.serving.bounded_json import BodyError, parse_object
from rag_diffusion.serving.draw_options import DrawOptions
from rag_diffusion.serving.draw_request import MAX_NEIGHBORS, MAX_PROMPT, DrawRequestError
from rag_diffusion.serving.given_neighbors import neighbors_of
from rag_diffusion.serving.pictures import Pictures
from rag_diffusion.serving.queries import MAX_BASE64
from rag_diffusion.serving.request_bodies import MEBIBYTE, read_fields, received

MAX_BODY = 2 * MAX_IMAGE_BYTES  # bytes; base64 makes a third more of an image
MAX_FORM_TEXT = 20_000  # characters of a field of a form
_LARGE = {"neighbors": MAX_BODY, "style_images": MAX_BODY, "image": MAX_BASE64, "mask": MAX_BASE64, "exclude": MEBIBYTE}
_SMALL = 12 * MAX_PROMPT + 2  # a character takes up to 12 bytes where it is escaped
_NESTED = ("neighbors", "style_images", "colours", "where", "exclude", "retrieval_schedule")  # JSON in a form
_WHERE = re.compile(r"where\[(\w+)\](?:\[\d*\])?")  # as the clients' forms have objects

Asked = TypeVar("Asked", bound=DrawOptions)


@dataclass(frozen=True, kw_only=True)
class DrawBody(Generic[Asked]):
    """A checked body.

    Attributes:
        asked: its fields.
        by_hand: its neighbors by hand.
        style_images: its pictures in the manner wanted.
        images: (S, S, 3) uint8 each, its pictures of the field `image`, at the size of the model's first stage.
        mask: (S, S) uint8, white where something else is to be, of the field `mask`; None is none.
    """

    asked: Asked
    by_hand: Sequence[Neighbor] = ()
    style_images: Sequence[Neighbor] = ()
    images: Sequence[Pixels] = field(default=())
    mask: Pixels | None = None


@dataclass(frozen=True)
class BodyReader:
    """Reads bodies.

    Attributes:
        admission: how many are worked on at a time.
        pictures: decodes what strangers sent.
    """

    admission: Admission
    pictures: Pictures

    async def json(self, request: Request, model: type[Asked], size: int) -> DrawBody[Asked]:
        """Read a body that is a JSON object.

        Args:
            request: with the body.
            model: of its fields, beside which it may have `image` and `mask` where the model has them.
            size: side in pixels of the model's first stage.

        Raises:
            BodyError, ValidationError: it is none, or a field is wrong.
        """
        fields = {name: _LARGE.get(name, _SMALL) for name in model.model_fields}

        def parse(content: bytes) -> DrawBody[Asked]:
            asked = model.model_validate(parse_object(content, fields, ascii_alone="image"))
            images, mask = getattr(asked, "image", None), getattr(asked, "mask", None)
            return self._decoded(
                asked,
                [] if images is None else [_bytes(images, "image")],
                None if mask is None else _bytes(mask, "mask"),
                size,
            )

        with await received(request) as body:
            length = body.tell()
            body.seek(0)
            async with self.admission.admit_body(length):
                queue = self.admission.search if length > _SMALL else self.admission.light
                return await queue.run(lambda: parse(body.read()))

    async def form(self, request: Request, model: type[Asked], size: int) -> DrawBody[Asked]:
        """Read a multipart form with files in the fields `image` or `image[]`, and by choice `mask`.

        Args:
            request: with the form.
            model: of its other fields; lists and objects among them are JSON.
            size: side in pixels of the model's first stage.

        Raises:
            BodyError, ValidationError: it is none, or a field is wrong.
        """
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise BodyError(400, "expected a multipart form with a file in the field 'image', got another content type")
        async with read_fields(request, MAX_NEIGHBORS + 1, MAX_FORM_TEXT) as fields:
            files = [(name.removesuffix("[]"), value) for name, value in fields if isinstance(value, UploadFile)]
            if unknown := sorted({name for name, _ in files} - {"image", "mask"}):
                raise BodyError(400, f"{unknown[0][:40]}: expected files as image and mask alone, got another")
            words = _as_object([(name, value) for name, value in fields if isinstance(value, str)])

            def parse() -> DrawBody[Asked]:
                asked = model.model_validate(words)
                images = [file.file.read() for name, file in files if name == "image"]
                masks = [file.file.read() for name, file in files if name == "mask"]
                if not images or len(masks) > 1:
                    got = f"{len(images)} and {len(masks)}"
                    raise BodyError(400, f"image: expected a file, or several, and at most one mask, got {got}")
                return self._decoded(asked, images, masks[0] if masks else None, size)

            async with self.admission.admit_body(sum(file.size or 0 for _, file in files)):
                return await self.admission.search.run(parse)

    def _decoded(self, asked: Asked, images: Sequence[bytes], mask: bytes | None, size: int) -> DrawBody[Asked]:
        def decode(content: bytes, what: str) -> Any:
            return self.pictures.checked(content, what, size)

        prompt = getattr(asked, "prompt", "")
        try:
            style = [decode(_bytes(text, "style_images"), "style_images") for text in asked.style_images]
            return DrawBody(
                asked=asked,
                by_hand=neighbors_of(asked.neighbors, prompt, decode),
                style_images=[Neighbor(image=one, caption=asked.style or "a picture", role="style") for one in style],
                images=[np.asarray(decode(content, "image")) for content in images],
                mask=None if mask is None else np.asarray(self.pictures.mask(mask, "mask", size)),
            )
        except (DataError, DrawRequestError) as error:
            raise BodyError(422, str(error)) from None


def _bytes(text: str, what: str) -> bytes:
    try:
        return decode_base64(text, what, MAX_IMAGE_BYTES)
    except DataError as error:
        raise BodyError(422, f"{what}: {error}") from None


def _as_object(fields: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The fields of a form as those of a JSON object."""
    found: dict[str, Any] = {}
    for name, value in fields:
        if named := _WHERE.fullmatch(name):
            found.setdefault("where", {}).setdefault(named[1], []).append(value)
        elif name in _NESTED:
            found[name] = _json(name, value)
        else:
            found[name] = value
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BodyError(400, f"{name}: expected JSON in this field of a form, got {text[:60]!r}") from None
