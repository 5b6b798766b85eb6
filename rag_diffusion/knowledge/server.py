"""`rag-diffusion kb serve`: a knowledge base over HTTP, in clip-retrieval's protocol and with uploads.

    POST /knn-service   POST /metadata   GET /indices-list      as `protocol` says
    GET  /images/ID     a pair's image, PNG; where the `url` of every result points to
    POST /pairs         one image and its caption: multipart (field `image`) or JSON (`image` as base64)
    POST /archives      a tar or zip of images with captions, as the body itself
    GET  /data-sets     what each data set says of itself        GET /health

An error is JSON with a `message` that says what was expected. What needs an answer from disk or the encoder runs in a
thread, so that one request never stops the others.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rag_diffusion.errors import (
    BusyError,
    ConfigError,
    DataError,
    QueryError,
    RagDiffusionError,
    RemoteError,
)
from rag_diffusion.knowledge.bodies import MEBIBYTE, BodyError, BodyLimits, parse_object, read_form, save
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.protocol import (
    INDICES,
    KNN,
    MAX_IMAGE_BYTES,
    METADATA,
    KnnRequest,
    MetadataRequest,
    decode_base64,
    global_id,
    messages,
)
from rag_diffusion.knowledge.readers import Limits, open_reader
from rag_diffusion.knowledge.records import Item, Rejection
from rag_diffusion.knowledge.service import Service, uploaded_name
from rag_diffusion.knowledge.writer import UNKNOWN

UPLOADED = "uploaded"  # data set of pairs that name none
MAX_ARCHIVE = 2 << 30  # bytes
MAX_BODY = 2 * MAX_IMAGE_BYTES  # bytes; base64 makes a third more of an image
MAX_WORDS = 10_000  # characters of a form's field
SEARCHES, FETCHES, UPLOADS = 16, 8, 4  # threads for each, so that none takes those of the others
LOOPBACK = ["127.0.0.1", "localhost"]
CONCURRENT = 64  # requests at a time; more are told to come again
SHOWN = 100  # rejections of an archive that are told one by one
ARCHIVE_LIMITS = Limits(bytes=4 << 30)
_STATUS = {QueryError: 422, RemoteError: 422, ConfigError: 422, BusyError: 503}


class PairForm(BaseModel):
    """What may be said of an uploaded pair beside its image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caption: str = Field(max_length=MAX_WORDS)
    data_set: str = UPLOADED
    name: str = Field(default="", max_length=1000)
    label: str = ""
    style: str = ""
    title: str = ""
    licence: str = ""
    attribution: str = ""
    split: str = ""
    url: str = ""

    def told(self) -> dict[str, str]:
        """What an item has beside its name and image."""
        return self.model_dump(exclude={"data_set", "name"})


def create_app(kb: KnowledgeBase, *, allow_hosts: Collection[str] = (), read_only: bool = False) -> FastAPI:
    """The server's application.

    Args:
        kb: what is searched, and taken into.
        allow_hosts: hosts of `image_url` queries that may have private addresses, see `check_url`.
        read_only: whether uploads are refused.
    """
    service = Service(kb, allow_hosts=allow_hosts)
    app = FastAPI(title="rag-diffusion knowledge base", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        BodyLimits,
        limits={f"/{KNN}": MAX_BODY, f"/{METADATA}": MEBIBYTE, "/pairs": MAX_BODY, "/archives": MAX_ARCHIVE},
    )
    _add_errors(app)
    _add_queries(app, service)
    _add_uploads(app, service, read_only)
    return app


def serve(
    kb: KnowledgeBase, *, host: str, port: int, allow_hosts: Collection[str] = (), read_only: bool = False
) -> None:
    """Serve until interrupted; see `create_app`.

    Args:
        kb: what is searched, and taken into.
        host: address to listen at; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.
        allow_hosts: see `create_app`.
        read_only: see `create_app`.
    """
    import uvicorn

    app = create_app(kb, allow_hosts=allow_hosts, read_only=read_only)
    if host in LOOPBACK:  # else a page of another site could come here under a name of its own: DNS rebinding
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    uvicorn.run(app, host=host, port=port, limit_concurrency=CONCURRENT, server_header=False)


def _add_queries(app: FastAPI, service: Service) -> None:
    searching, fetching = CapacityLimiter(SEARCHES), CapacityLimiter(FETCHES)

    @app.post(f"/{KNN}")
    async def knn(request: Request) -> Any:
        content, url = await request.body(), _url_of(request)
        asked = await run_in_threadpool(lambda: KnnRequest.model_validate(parse_object(content)))
        return await _json(lambda: service.knn(asked, url), limiter=fetching if asked.needs_fetch else searching)

    @app.post(f"/{METADATA}")
    async def metadata(request: Request) -> Any:
        content, url = await request.body(), _url_of(request)
        return await _json(
            lambda: service.metadata(MetadataRequest.model_validate(parse_object(content)), url), limiter=searching
        )

    @app.get(f"/{INDICES}")
    async def indices() -> Any:
        return await _json(service.indices)

    @app.get("/data-sets")
    async def data_sets() -> Any:
        return await _json(service.data_sets)

    @app.get("/health")
    async def health() -> Any:
        return await _json(service.health)

    @app.get("/images/{key}")
    async def image(key: int) -> Response:
        found = await run_in_threadpool(service.image, key)
        if found is None:
            raise BodyError(404, f"expected the id of a pair, got {key}")
        return Response(found, media_type="image/png", headers={"Cache-Control": "max-age=3600"})


def _add_uploads(app: FastAPI, service: Service, read_only: bool) -> None:
    taking = CapacityLimiter(UPLOADS)

    def check(request: Request) -> None:
        if read_only:
            raise BodyError(403, "expected no upload: this server was started with --read-only")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise BodyError(403, f"expected an upload from this server's own pages or a program, got one from {origin}")

    @app.post("/pairs", status_code=201)
    async def pairs(request: Request) -> Any:
        check(request)
        url = _url_of(request)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            image, words = await read_form(request, "image", MAX_WORDS)
            return await _json(lambda: _insert_one(service, image, words, url), 201, taking)
        body = await request.body()

        def insert() -> dict[str, Any]:
            found = parse_object(body)
            image = found.pop("image", None)
            if not isinstance(image, str):
                raise BodyError(422, "image: expected base64, or a multipart form with a file of this name, got none")
            try:
                content = decode_base64(image, "image", MAX_IMAGE_BYTES)
            except DataError as error:
                raise BodyError(422, str(error)) from None
            return _insert_one(service, content, found, url)

        return await _json(insert, 201, taking)

    @app.post("/archives", status_code=201)
    async def archives(
        request: Request, data_set: str = UPLOADED, licence: str = UNKNOWN, attribution: str = UNKNOWN
    ) -> Any:
        check(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise BodyError(415, "expected a tar or zip as the body itself (curl --data-binary @FILE), got a form")
        with tempfile.TemporaryDirectory(prefix="rag-diffusion-upload-") as folder:
            path = Path(folder) / "archive"
            if not await save(request, path):
                raise BodyError(422, "expected a tar or zip as the body, got 0 bytes")
            said = {"licence": licence, "attribution": attribution}
            return await _json(lambda: _insert_archive(service, path, data_set, said), 201, taking)


def _insert_one(service: Service, image: bytes, words: dict[str, Any], url: Callable[[int], str]) -> dict[str, Any]:
    form = PairForm.model_validate(words)
    item = Item(name=form.name or uploaded_name(image, form.caption), image=image, **form.told())
    checked = service.checked(form.data_set, item)
    if isinstance(checked, Rejection):
        raise BodyError(422, checked.reason)
    key = global_id(checked.pair_id)
    if service.image(key) is not None:
        raise BodyError(409, f"expected a new pair, but there is one of the id {checked.pair_id!r}")
    manifest, _ = service.insert(form.data_set, [item])
    told = {"data_set": form.data_set, "pair_id": checked.pair_id, "id": key, "url": url(key)}
    return told | {"num_pairs": manifest.num_pairs}


def _insert_archive(service: Service, path: Path, data_set: str, said: dict[str, str]) -> dict[str, Any]:
    reader = open_reader("archive", path, limits=ARCHIVE_LIMITS, scratch=path.parent)
    before = service.num_pairs(data_set)
    try:
        manifest, rejected = service.insert(data_set, reader, **said)
    except DataError as error:
        raise BodyError(422, str(error)) from None
    kinds = Counter(one.kind for one in rejected)
    return {
        "data_set": data_set,
        "num_pairs": manifest.num_pairs,
        "num_new": manifest.num_pairs - before,
        "num_rejected": len(rejected),
        "rejected_by_reason": dict(sorted(kinds.items())),
        "rejected": [{"what": one.what, "reason": one.reason} for one in rejected[:SHOWN]],
    }


async def _json(compute: Callable[[], Any], status: int = 200, limiter: CapacityLimiter | None = None) -> JSONResponse:
    """What a function finds, made in a thread; `limiter` says how many such threads there are at a time."""
    return await to_thread.run_sync(lambda: JSONResponse(compute(), status), limiter=limiter)


def _url_of(request: Request) -> Callable[[int], str]:
    base = str(request.base_url)
    return lambda key: f"{base}images/{key}"


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, message: str) -> JSONResponse:
        return JSONResponse({"message": message}, status)

    @app.exception_handler(RagDiffusionError)
    async def known(request: Request, error: RagDiffusionError) -> JSONResponse:
        own = error.status if isinstance(error, BodyError) else None
        return answer(own or next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500), str(error))

    @app.exception_handler(ValidationError)
    async def invalid(request: Request, error: ValidationError) -> JSONResponse:
        return answer(422, messages(error.errors(include_input=False)))

    @app.exception_handler(RequestValidationError)
    async def invalid_path(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, messages(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, f"{request.method} {request.url.path}: {error.detail}"[:500])

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "something unexpected happened; the server's log has it")
