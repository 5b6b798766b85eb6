"""The doors that draw: the images API, `/draw` with all options and where each picture came from."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi import Path as PathParameter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag_diffusion.sampling.provenance import Sign
from rag_diffusion.sampling.studio import Picture
from rag_diffusion.serving import api_openapi
from rag_diffusion.serving.admission import Admission
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.draw_options import Base64, PictureOptions, stages_of
from rag_diffusion.serving.draw_requests import BodyReader
from rag_diffusion.serving.drawing_queue import DrawingQueue
from rag_diffusion.serving.drawn_pictures import Kept, as_base64, check_retrieval, drawn, encoded, sides_of
from rag_diffusion.serving.images_api import FILES, MODEL, ImagesApi, check_model
from rag_diffusion.serving.keys import DRAWING
from rag_diffusion.serving.pictures import Pictures
from rag_diffusion.serving.request_guard import foreign_origin

Answer = Callable[[Request], Awaitable[Response]]


class DrawForm(PictureOptions):
    """What `/draw` takes."""

    image: Base64 | None = Field(default=None, description="To begin with instead of noise, base64.")
    mask: Base64 | None = Field(
        default=None, description="Transparent (or white, where it has no transparency) where `image` is drawn anew."
    )
    keep_pictures: bool = Field(default=False, description="Whether the provenance keeps the neighbors' pixels.")
    heat_maps: bool = Field(default=False, description="Whether the answer has them.")


def add_drawing(
    app: FastAPI,
    queue: DrawingQueue,
    admission: Admission,
    pictures: Pictures,
    origins: Collection[str],
    kept: Kept,
) -> None:
    """Add the doors that draw.

    Args:
        app: gets them.
        queue: draws.
        admission: how many requests of each kind at a time.
        pictures: decodes what strangers sent.
        origins: of pages of other sites that may ask; empty for none.
        kept: pictures that a URL leads to.
    """
    reader = BodyReader(admission, pictures)
    api = ImagesApi(queue, reader, kept)

    def own(answer: Answer) -> Answer:
        async def checked(request: Request) -> Response:
            if origin := foreign_origin(request, origins):
                raise BodyError(403, f"expected a page of this server or a program, got one of {origin}")
            return await answer(request)

        return checked

    async def draw(request: Request) -> Response:
        return await _drawn(queue, reader, request)

    answers: tuple[Answer, ...] = (draw, api.generate, api.edit, api.vary)
    for path, answer in zip(DRAWING, answers, strict=True):
        told = api_openapi.post_described(path, DrawForm if answer is draw else None)
        app.add_api_route(path, own(answer), methods=["POST"], name=path, response_model=None, **told)

    @app.get("/v1/models", **api_openapi.get_described("/v1/models"))
    async def models() -> Any:
        return JSONResponse({"object": "list", "data": [_model(queue)]})

    @app.get("/v1/models/{name}", **api_openapi.get_described("/v1/models/{name}"))
    async def model(name: Annotated[str, PathParameter(max_length=100)]) -> Any:
        check_model(name)
        return JSONResponse(_model(queue))

    @app.get(f"{FILES}/{{name}}", **api_openapi.get_described(f"{FILES}/{{name}}"))
    async def file(name: Annotated[str, PathParameter(max_length=100)]) -> Response:
        content = api.kept.get(name)
        if content is None:
            raise BodyError(404, "name: expected that of a picture drawn lately, got another; draw it again")
        kind = name.rpartition(".")[2]
        return Response(content, media_type=f"image/{kind}", headers={"Cache-Control": "private, max-age=3600"})


async def _drawn(queue: DrawingQueue, reader: BodyReader, request: Request) -> Response:
    """Answer `/draw`."""
    sides = await to_thread.run_sync(sides_of, queue)
    body = await reader.json(request, DrawForm, sides[0])
    asked = body.asked
    requests = asked.requests(
        queue.base.config,
        asked.prompt,
        asked.n,
        stages=stages_of(asked.size, sides),
        by_hand=body.by_hand,
        style_images=body.style_images,
        image=body.images[0] if body.images else None,
        mask=body.mask,
        keep_pictures=asked.keep_pictures,
    )
    await to_thread.run_sync(check_retrieval, queue, requests[0])
    begun = time.monotonic()
    pictures = await drawn(queue, requests)
    seconds = round(time.monotonic() - begun, 3)
    told = await to_thread.run_sync(lambda: [_told(one, asked.heat_maps, queue.sign) for one in pictures])
    return JSONResponse({"pictures": told, "seconds": seconds})


def _told(picture: Picture, heat_maps: bool, sign: Sign | None) -> dict[str, Any]:
    origin = picture.provenance
    maps = {"heat_maps": [[[round(float(cell), 4) for cell in row] for row in one] for one in picture.heat]}
    return {
        "image": as_base64(encoded(picture.pixels, origin, "png", sign=sign)),
        "seed": origin.seed,
        "variant": picture.variant,
        "provenance": origin.as_dict(),
    } | (maps if heat_maps else {})


def _model(queue: DrawingQueue) -> dict[str, Any]:
    """What the API says of the model."""
    folder = Path(queue.model)
    created = int(folder.stat().st_mtime) if folder.is_dir() else 0
    return {"id": MODEL, "object": "model", "created": created, "owned_by": MODEL}
