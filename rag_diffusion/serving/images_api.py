"""The images API that clients of OpenAI speak: generations, edits, variations, and the one model that there is.

    POST /v1/images/generations   JSON        pictures of a text
    POST /v1/images/edits         a form      pictures of a text that look at pictures which were sent
    POST /v1/images/variations    a form      pictures like one which was sent
    GET  /v1/images/files/NAME                where the `url` of a picture leads
    GET  /v1/models, /v1/models/ID

Fields of its own are those of `DrawOptions`. With `stream` the answer is events of
partial pictures and of the last one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from anyio import to_thread
from PIL import Image
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.studio import Picture
from rag_diffusion.serving.api_errors import error_body
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.draw_options import DrawOptions, PictureOptions, stages_of
from rag_diffusion.serving.draw_request import MAX_PROMPT
from rag_diffusion.serving.draw_requests import BodyReader, DrawBody
from rag_diffusion.serving.drawing_queue import DrawingQueue, Preview
from rag_diffusion.serving.drawn_pictures import (
    Format,
    Growing,
    Kept,
    Usage,
    as_base64,
    check_retrieval,
    drawn,
    encoded,
    sides_of,
)
from rag_diffusion.serving.events import Events

MODEL = "rag-diffusion"
FILES = "/v1/images/files"
_STEPS = {"low": 10, "high": 50, "hd": 50, "xhigh": 100, "max": 100}  # of the qualities that are not the project's own
_TOLD = {"auto": "medium", "standard": "medium", "hd": "high"}
_WITHOUT_EFFECT = "Taken, and without effect."


class ImageOptions(PictureOptions):
    """What every request of the API may say beside its text."""

    model: str | None = Field(default=None, max_length=100, description=f"`{MODEL}`, the one that there is.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = Field(
        default="auto", description=f"By number of steps: {_STEPS}; all others as params.yaml says."
    )
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Format = Field(default="png", description="A PNG or JPEG holds its provenance.")
    output_compression: int | None = Field(default=None, ge=0, le=100, description="Of JPEG and WebP.")
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = Field(default="auto", description=_WITHOUT_EFFECT)
    user: str | None = Field(default=None, max_length=300, description=_WITHOUT_EFFECT)
    safety_identifier: str | None = Field(default=None, max_length=300, description=_WITHOUT_EFFECT)
    stream: bool = False
    partial_images: int = Field(default=0, ge=0, le=3, description="Events before the last one, with `stream`.")

    @property
    def drawn(self) -> DrawOptions:
        """The same, with the steps that the quality means."""
        steps = self.num_inference_steps or _STEPS.get(self.quality)
        return self.model_copy(update={"num_inference_steps": steps})


class EditOptions(ImageOptions):
    """Fields of a form that has pictures to look at.

    With `mask` the first of them is drawn anew where the mask is transparent (or white, where it has no transparency),
    and the others are looked at; where there are no others, pairs are retrieved. With `strength` it is begun with.
    """

    input_fidelity: Literal["low", "high"] = Field(default="low", description=_WITHOUT_EFFECT)


class VariationOptions(ImageOptions):
    """Fields of a form that has one picture."""

    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] = ""


@dataclass
class ImagesApi:
    """Answers.

    Attributes:
        queue: draws.
        reader: of bodies.
        kept: pictures that a URL leads to.
    """

    queue: DrawingQueue
    reader: BodyReader
    kept: Kept

    @cached_property
    def usage(self) -> Usage:
        """Counts tokens."""
        return Usage(self.queue.pipeline)

    async def generate(self, request: Request) -> Response:
        """Answer a `request` to `/v1/images/generations`."""
        sides = await to_thread.run_sync(sides_of, self.queue)
        body = await self.reader.json(request, ImageOptions, sides[0])
        return await self._answer(request, body, body.by_hand, None, sides, "image_generation")

    async def edit(self, request: Request) -> Response:
        """Answer a `request` to `/v1/images/edits`: neighbors by hand; with a mask the first is drawn anew in part."""
        sides = await to_thread.run_sync(sides_of, self.queue)
        body = await self.reader.form(request, EditOptions, sides[0])
        masked = body.mask is not None
        looked_at = body.images[1:] if masked else body.images
        pictures = [Neighbor(image=one, caption=body.asked.prompt) for one in looked_at]
        image = body.images[0] if masked or body.asked.strength is not None else None
        return await self._answer(request, body, [*pictures, *body.by_hand], image, sides, "image_edit")

    async def vary(self, request: Request) -> Response:
        """Answer a `request` to `/v1/images/variations`: its picture is begun with, and a neighbor by hand."""
        sides = await to_thread.run_sync(sides_of, self.queue)
        body = await self.reader.form(request, VariationOptions, sides[0])
        if len(body.images) != 1 or body.mask is not None:
            raise BodyError(400, f"image: expected one and no mask, got {len(body.images)} pictures")
        neighbor = Neighbor(image=body.images[0], caption=body.asked.prompt)
        return await self._answer(request, body, [neighbor, *body.by_hand], body.images[0], sides, "image_variation")

    async def _answer(
        self,
        request: Request,
        body: DrawBody[Any],
        by_hand: Sequence[Neighbor],
        image: Pixels | None,
        sides: list[int],
        event: str,
    ) -> Response:
        asked: ImageOptions = body.asked
        check_model(asked.model)
        stages = stages_of(asked.size, sides)
        requests = asked.drawn.requests(
            self.queue.base.config,
            asked.prompt,
            asked.n,
            stages=stages,
            by_hand=by_hand,
            style_images=body.style_images,
            image=image,
            mask=body.mask,
        )
        await to_thread.run_sync(check_retrieval, self.queue, requests[0])
        told = {
            "background": "opaque",
            "output_format": asked.output_format,
            "quality": _TOLD.get(asked.quality, asked.quality),
            "size": f"{sides[stages - 1]}x{sides[stages - 1]}",
        }
        if asked.stream:
            growing = Growing(self.queue, requests, asked.partial_images)
            events = self._events(growing, asked, told, event, sides[stages - 1])
            return Events(events, _error_event, growing.leave)
        pictures = await drawn(self.queue, requests)
        return JSONResponse(await to_thread.run_sync(lambda: self._response(request, asked, told, pictures)))

    def _response(
        self, request: Request, asked: ImageOptions, told: Mapping[str, str], pictures: list[Picture]
    ) -> dict[str, Any]:
        data = []
        for picture in pictures:
            content = encoded(
                picture.pixels,
                picture.provenance,
                asked.output_format,
                asked.output_compression,
                self.queue.sign,
            )
            if asked.response_format == "url":
                where = {"url": f"{request.base_url}{FILES[1:]}/{self.kept.keep(content, asked.output_format)}"}
            else:
                where = {"b64_json": as_base64(content)}
            data.append(where | {"seed": picture.provenance.seed})
        usage = self.usage.of(asked.prompt, pictures)
        return {"created": int(time.time()), "data": data, **told, "usage": usage}

    async def _events(
        self, growing: Growing, asked: ImageOptions, told: Mapping[str, str], event: str, side: int
    ) -> AsyncIterator[dict[str, Any]]:
        count = [0] * asked.n
        async for number, what in growing.news():
            more: dict[str, Any] = {"index": number, "created_at": int(time.time()), **told}
            if isinstance(what, Preview):
                pixels = what.pixels
                if len(pixels) != side:
                    pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
                content = encoded(pixels, None, asked.output_format)
                more |= {"type": f"{event}.partial_image", "partial_image_index": count[number]}
                count[number] += 1
            else:
                origin = what.provenance
                content = encoded(what.pixels, origin, asked.output_format, asked.output_compression, self.queue.sign)
                usage = self.usage.of(asked.prompt, [what])
                more |= {"type": f"{event}.completed", "seed": origin.seed, "usage": usage}
            yield more | {"b64_json": as_base64(content)}


def check_model(name: str | None) -> None:
    """Refuse the `name` of a model that is not there; None is the one that is.

    Raises:
        BodyError: it is another one.
    """
    if name not in (None, MODEL):
        raise BodyError(404, f"model: expected {MODEL!r}, the one that there is, got {name!r}", code="model_not_found")


def _error_event(error: Exception) -> dict[str, Any]:
    status = error.status if isinstance(error, BodyError) else 500
    return {"type": "error"} | error_body(400 if status == 422 else status, str(error))
