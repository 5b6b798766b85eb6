"""The OpenAPI schema of the server, made of the models that check what comes, with examples and every error.

What a schema cannot say stands in the descriptions: that base64 is to be a picture, and that a data set is to exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse

from rag_diffusion.serving.keys import needs_key
from rag_diffusion.serving.queries import MAX_BASE64, KnnRequest, MetadataRequest

ERRORS = {
    400: "No JSON object, no form, or no host that this server is called by.",
    401: "A key is needed.",
    403: "The key may not write, uploads are switched off, or a page of another site asks.",
    404: "There is no such thing.",
    405: "The door takes another method; the header `Allow` says which.",
    408: "Head or body came too slowly.",
    409: "There is a pair of that id.",
    413: "The body is too long, or has too many values.",
    415: "A form in place of an archive.",
    422: "Something in it is not as the schema says, or no picture; the message says what was expected.",
    429: "Too many at a time, or of one key; `Retry-After` says when to come again.",
    500: "Something is the matter with the server; its log has it.",
    503: "Another process writes the data set, or the model is not there; `Retry-After` says when to come again.",
}
_ALWAYS = (400, 401, 403, 405, 408, 413, 422, 429, 500)


class Hit(BaseModel):
    """A result; those beyond `num_images` have `id` and `similarity` alone, those of `/metadata` no `similarity`."""

    model_config = ConfigDict(extra="forbid")

    id: int = Field(ge=0, lt=2**63)
    similarity: float | None = None
    probability: float | None = Field(default=None, description="That it shows what the text asks for, calibrated.")
    pair_id: str = ""
    url: str = ""
    caption: str = ""
    source: str = ""
    label: str = ""
    style: str = ""
    title: str = ""
    licence: str = ""
    attribution: str = ""
    split: str = ""
    image: str = Field(default="", description="PNG as base64, where it was asked for.")


class PairMetadata(BaseModel):
    """What is known of an id; nothing where no pair has it."""

    model_config = ConfigDict(extra="forbid")

    id: int
    metadata: Hit | None


class Health(BaseModel):
    """Whether the server answers, and from how much."""

    status: str
    num_pairs: int
    data_sets: list[str]


class Ready(BaseModel):
    """Whether all is open, and how many pictures wait to be drawn."""

    ready: bool
    waiting: int


class UploadResult(BaseModel):
    """A pair that was taken."""

    data_set: str
    pair_id: str
    id: int
    url: str
    num_pairs: int


class ArchiveUploadResult(BaseModel):
    """What was taken of an archive, and what was not."""

    data_set: str
    num_pairs: int
    num_new: int = Field(ge=1)
    num_rejected: int
    rejected_by_reason: dict[str, int]
    rejected: list[dict[str, str]]


class Message(BaseModel):
    """An error."""

    model_config = ConfigDict(extra="forbid")

    message: str


_MESSAGE = Message.model_json_schema()

EXAMPLES: dict[str, dict[str, Any]] = {
    "knn": {"text": "a red apple", "num_images": 3, "indice_name": "all", "where": {"class": [], "licence": []}},
    "metadata": {"ids": [1], "indice_name": "all"},
}


def described(answer: Any, summary: str, *errors: int, status: int = 200) -> dict[str, Any]:
    """What a route says of its answers, for FastAPI.

    Args:
        answer: model of the answer.
        summary: of the door.
        errors: those beside the ones that any door has.
        status: of the answer.

    Returns:
        Arguments of a FastAPI route.
    """
    responses: dict[int | str, dict[str, Any]] = {
        code: {"description": ERRORS[code], "content": {"application/json": {"schema": _MESSAGE}}}
        for code in sorted({*_ALWAYS, *errors})
    }
    if answer is not None:
        responses[status] = {"model": answer, "description": "As asked."}
    return {"summary": summary, "responses": responses}


def secured(schema: dict[str, Any], to_read: bool) -> dict[str, Any]:
    """Say in a `schema` which operations need a key, and how it is given.

    Args:
        schema: of OpenAPI; it is changed.
        to_read: whether reading needs a key as well.

    Returns:
        The same.
    """
    schema.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the server's file of keys."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    }
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if needs_key(method.upper(), path, to_read=to_read):
                operation["security"] = [{"bearer": []}, {"header": []}]
    return schema


ORIGINAL = "The file as it came, whatever its form, in place of the square; 404 where it is not kept."


def image_described(kinds: Sequence[str]) -> dict[str, Any]:
    """What `/images/ID` says of its answers: a PNG, or a file of one of the content types `kinds`."""
    description = described(None, "A pair's image, or the file that it was made of", 404)
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    description["responses"][200] = {"description": "As asked.", "content": content}
    return description


def metrics_described() -> dict[str, Any]:
    """What `/metrics` says of its answer: text."""
    description = described(None, "Counts for Prometheus")
    content = {"text/plain": {"schema": {"type": "string"}}}
    description["responses"][200] = {"description": "As asked.", "content": content}
    return description | {"response_class": PlainTextResponse}


def json_body(
    model: type[BaseModel], example: str, content_types: Sequence[str] = ("application/json",)
) -> dict[str, Any]:
    """Describe a body that is a JSON object, for a route that parses it itself.

    Args:
        model: of the body.
        example: name in `EXAMPLES`.
        content_types: that the body may have.

    Returns:
        `openapi_extra` of FastAPI.
    """
    schema = inlined(model.model_json_schema(by_alias=True))
    content = {kind: {"schema": schema, "example": EXAMPLES[example]} for kind in content_types}
    return {"requestBody": {"required": True, "content": content}}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON `schema` without references to its own definitions, which have no place in a route; it is changed."""
    known = schema.pop("$defs", {})

    def put(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return put(known[part["$ref"].rpartition("/")[2]])
            return {name: put(value) for name, value in part.items()}
        return [put(one) for one in part] if isinstance(part, list) else part

    whole: dict[str, Any] = put(schema)
    return whole


def knn_body() -> dict[str, Any]:
    """What `/knn-service` takes: a query in one of four ways."""
    body = json_body(KnnRequest, "knn")
    schema = body["requestBody"]["content"]["application/json"]["schema"]
    ways = ("text", "image", "image_url", "embedding_input")
    schema["anyOf"] = [{"required": [way], "properties": {way: {"not": {"type": "null"}}}} for way in ways]
    return body


def metadata_body() -> dict[str, Any]:
    """What `/metadata` takes."""
    return json_body(MetadataRequest, "metadata")


def pair_body(form: type[BaseModel]) -> dict[str, Any]:
    """What `/pairs` takes: a form with a file, or JSON with base64, and the fields of the model `form`."""
    words = inlined(form.model_json_schema())
    required = [*words.get("required", []), "image"]
    plain = {"type": "string", "maxLength": MAX_BASE64, "contentEncoding": "base64"}
    file = {"type": "string", "format": "binary"}
    kinds = {"application/json": plain, "multipart/form-data": file}
    content = {
        kind: {"schema": words | {"required": required, "properties": words["properties"] | {"image": image}}}
        for kind, image in kinds.items()
    }
    return {"requestBody": {"required": True, "content": content}}


def archive_body() -> dict[str, Any]:
    """What `/archives` takes: the archive itself."""
    kinds = ("application/zip", "application/x-tar", "application/octet-stream")
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}
