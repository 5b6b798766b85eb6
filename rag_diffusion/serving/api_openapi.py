"""What the doors that draw say of themselves in the OpenAPI schema: fields, answers, errors, and an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rag_diffusion.serving.draw_options import PictureOptions
from rag_diffusion.serving.images_api import FILES, EditOptions, ImageOptions, VariationOptions
from rag_diffusion.serving.openapi import described, inlined


class ApiError(BaseModel):
    """An error below `/v1`."""

    model_config = ConfigDict(extra="forbid")

    class Body(BaseModel):
        """What is told."""

        message: str
        type: str
        param: str | None
        code: str | None

    error: Body


class TokenDetails(BaseModel):
    """Tokens by what was read."""

    text_tokens: int
    image_tokens: int


class UsageTold(BaseModel):
    """Tokens that a drawing read: of the prompt, and cells of the neighbors' maps; a diffusion model writes none."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    total_tokens: int


class ImageTold(BaseModel):
    """A picture, by itself or by its URL."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesTold(BaseModel):
    """Pictures of one request."""

    created: int
    data: list[ImageTold]
    background: str
    output_format: str
    quality: str
    size: str
    usage: UsageTold


class EventTold(BaseModel):
    """An event of a streamed answer: a picture on its way, or one that is done, with its seed and tokens."""

    model_config = ConfigDict(extra="forbid")

    type: str
    index: int
    created_at: int
    background: str
    output_format: str
    quality: str
    size: str
    b64_json: str
    partial_image_index: int | None = None
    seed: int | None = None
    usage: UsageTold | None = None


class StreamedError(ApiError):
    """The event of an error that ends a streamed answer."""

    type: Literal["error"]


class DrawnTold(BaseModel):
    """A picture with where it came from."""

    image: str = Field(description="PNG in base64, its provenance inside.")
    seed: int
    variant: str
    provenance: dict[str, Any]
    heat_maps: list[list[list[float]]] | None = Field(
        default=None, description="Of each neighbor, cells of the picture."
    )


class DrawTold(BaseModel):
    """Pictures of one request, and how long they took, waiting included."""

    pictures: list[DrawnTold]
    seconds: float


class ModelTold(BaseModel):
    """The model."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelsTold(BaseModel):
    """The models, of which there is one."""

    object: str
    data: list[ModelTold]


_ERROR = inlined(ApiError.model_json_schema())
_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [inlined(one.model_json_schema()) for one in (EventTold, StreamedError)]},
        },
    },
}
_FILE = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": 16}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/draw": {"prompt": "a lucky shamrock in the style of Twemoji", "seed": 7, "num_neighbors": 2, "heat_maps": True},
    "/v1/images/generations": {"prompt": "a lucky shamrock in the style of Twemoji", "n": 2, "seed": 7, "size": "auto"},
    "/v1/images/edits": {"prompt": "a green apple in the style of Noto", "seed": 7},
    "/v1/images/variations": {"n": 2, "strength": 0.6},
}
_SUMMARIES = {
    "/draw": "Draw, with all options and provenance",
    "/v1/images/generations": "Pictures of a text",
    "/v1/images/edits": "Pictures of a text that look at pictures which were sent",
    "/v1/images/variations": "Pictures like one which was sent",
    "/v1/models": "The model",
    "/v1/models/{name}": "The model by its name",
    f"{FILES}/{{name}}": "A picture by its URL",
}


def post_described(path: str, form: type[BaseModel] | None = None) -> dict[str, Any]:
    """What a door that draws says of itself.

    Args:
        path: of the door.
        form: model of the fields of `/draw`.

    Returns:
        Arguments of a FastAPI route.
    """
    models: Mapping[str, type[BaseModel]] = {
        "/v1/images/generations": ImageOptions,
        "/v1/images/edits": EditOptions,
        "/v1/images/variations": VariationOptions,
    }
    model = form or models.get(path, PictureOptions)
    schema = inlined(model.model_json_schema(by_alias=True))
    kind = "application/json"
    if path in ("/v1/images/edits", "/v1/images/variations"):
        kind = "multipart/form-data"
        file = {"image": _FILES, "mask": _FILE} if path.endswith("edits") else {"image": _FILE}
        schema = schema | {
            "properties": schema["properties"] | file,
            "required": [*schema.get("required", []), "image"],
        }
    answer = DrawTold if path == "/draw" else ImagesTold
    told = _described(path, answer)
    if path != "/draw":
        told["responses"][200]["content"] = {"text/event-stream": {"itemSchema": _EVENT}}
    body = {"required": True, "content": {kind: {"schema": schema, "example": _EXAMPLES[path]}}}
    return told | {"openapi_extra": {"requestBody": body}}


def get_described(path: str) -> dict[str, Any]:
    """What a door at a `path` that gives says of itself: arguments of a FastAPI route."""
    if path.startswith(FILES):
        told = _described(path, None)
        kinds = ("image/png", "image/jpeg", "image/webp")
        content = {kind: {"schema": _FILE} for kind in kinds}
        told["responses"][200] = {"description": "As asked.", "content": content}
        return told
    return _described(path, ModelsTold if path == "/v1/models" else ModelTold)


def _described(path: str, answer: type[BaseModel] | None) -> dict[str, Any]:
    told = described(answer, _SUMMARIES[path], 404, 503)
    if path.startswith("/v1/"):
        for code, response in told["responses"].items():
            if code != 200:
                response["content"] = {"application/json": {"schema": _ERROR}}
    return told
