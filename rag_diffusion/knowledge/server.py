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

from collections.abc import Collection
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rag_diffusion.errors import (
    BusyError,
    ConfigError,
    QueryError,
    RagDiffusionError,
    RemoteError,
)
from rag_diffusion.knowledge.bodies import MEBIBYTE, BodyError, BodyLimits, in_thread, parse_object, url_of
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.protocol import (
    INDICES,
    KNN,
    MAX_IMAGE_BYTES,
    METADATA,
    KnnRequest,
    MetadataRequest,
    messages,
)
from rag_diffusion.knowledge.service import Service
from rag_diffusion.knowledge.uploads import add_uploads

MAX_ARCHIVE = 2 << 30  # bytes
MAX_BODY = 2 * MAX_IMAGE_BYTES  # bytes; base64 makes a third more of an image
SEARCHES, FETCHES = 16, 8  # threads for each, so that none takes those of the others
LOOPBACK = ["127.0.0.1", "localhost"]
CONCURRENT = 64  # requests at a time; more are told to come again
_STATUS = {QueryError: 422, RemoteError: 422, ConfigError: 422, BusyError: 503}


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
    add_uploads(app, service, read_only)
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
        content, url = await request.body(), url_of(request)
        asked = await run_in_threadpool(lambda: KnnRequest.model_validate(parse_object(content)))
        return await in_thread(lambda: service.knn(asked, url), limiter=fetching if asked.needs_fetch else searching)

    @app.post(f"/{METADATA}")
    async def metadata(request: Request) -> Any:
        content, url = await request.body(), url_of(request)
        return await in_thread(
            lambda: service.metadata(MetadataRequest.model_validate(parse_object(content)), url), limiter=searching
        )

    @app.get(f"/{INDICES}")
    async def indices() -> Any:
        return await in_thread(service.indices)

    @app.get("/data-sets")
    async def data_sets() -> Any:
        return await in_thread(service.data_sets)

    @app.get("/health")
    async def health() -> Any:
        return await in_thread(service.health)

    @app.get("/images/{key}")
    async def image(key: int) -> Response:
        found = await run_in_threadpool(service.image, key)
        if found is None:
            raise BodyError(404, f"expected the id of a pair, got {key}")
        return Response(found, media_type="image/png", headers={"Cache-Control": "max-age=3600"})


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
