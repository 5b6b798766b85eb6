"""`rag-diffusion kb serve`: a knowledge base over HTTP, in clip-retrieval's protocol and with uploads.

    POST /knn-service   POST /metadata   GET /indices-list      as `clip_protocol` says
    GET  /images/ID     a pair's image, PNG; where the `url` of every result points to; with `?original=1` what came
    POST /pairs         one image and its caption: multipart (field `image`) or JSON (`image` as base64)
    POST /archives      a tar or zip of images with captions, as the body itself
    GET  /data-sets     what each data set says of itself
    GET  /health        whether it answers      GET /ready   whether it can draw      GET /metrics   for Prometheus
    POST /draw   POST /v1/images/...            `drawing_doors`, where there is a queue that draws

An error is JSON with a `message` that says what was expected. What needs an answer from disk or the encoder runs in a
thread when it is its turn, so that one request never stops the others. What a request may cost is bounded before it is
spent: `bounded_json` bounds JSON, `pictures` images, `request_bodies` what comes, `admission` what waits,
`connections` who connects.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from rag_diffusion.clip_protocol import INDICES, KNN, MAX_IMAGE_BYTES, METADATA
from rag_diffusion.errors import (
    BusyError,
    ConfigError,
    QueryError,
    RagDiffusionError,
    RemoteError,
)
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.serving import openapi
from rag_diffusion.serving.admission import Admission, image_url
from rag_diffusion.serving.api_errors import ApiErrors
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.connections import bounded_protocol
from rag_diffusion.serving.keys import DRAWING, RATE, Keys, read_keys
from rag_diffusion.serving.memory import keep_small
from rag_diffusion.serving.metrics import CONTENT_TYPE, Measured, Metrics
from rag_diffusion.serving.openapi import Hit, PairMetadata, described
from rag_diffusion.serving.originals import KINDS, response_of
from rag_diffusion.serving.queries import FIELDS, KnnRequest, MetadataRequest, messages
from rag_diffusion.serving.request_bodies import MEBIBYTE, BodyLimits
from rag_diffusion.serving.request_guard import Guard, log, refusal, unforeseen
from rag_diffusion.serving.service import Service
from rag_diffusion.serving.uploads import add_uploads

if TYPE_CHECKING:
    from rag_diffusion.serving.drawing_queue import DrawingQueue
    from rag_diffusion.serving.drawn_pictures import Kept

MAX_ARCHIVE = 2 << 30  # bytes
MAX_DROPPED = 256 << 20  # bytes of files that are dropped on a page at a time
MAX_BODY = 2 * MAX_IMAGE_BYTES  # bytes; base64 makes a third more of an image
LOOPBACK = ["127.0.0.1", "localhost"]
_STATUS = {QueryError: 422, RemoteError: 422, ConfigError: 422, BusyError: 503}


class PngResponse(Response):
    """A picture."""

    media_type = "image/png"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask the server what.

    Attributes:
        allow_hosts: hosts of `image_url` queries that may have private addresses, see `check_url`.
        read_only: whether uploads are refused.
        hosts: names by which the server may be called; empty lets all pass.
        keys: file of API keys, see `read_keys`; None asks nobody for one.
        key_to_read: whether reading needs a key as well as writing.
        rate: requests a minute of one key.
        origins: pages of other sites that may ask, as https://example.org; empty for none (CORS).
    """

    allow_hosts: Collection[str] = ()
    read_only: bool = False
    hosts: Collection[str] = ()
    keys: Path | None = None
    key_to_read: bool = False
    rate: int = RATE
    origins: Collection[str] = ()

    def __post_init__(self) -> None:
        for origin in self.origins:
            if not re.fullmatch(r"https?://[\w.\-\[\]:]+", origin):
                raise ConfigError(f"origin: expected a site as https://example.org, without a path, got {origin!r}")


def create_app(
    kb: KnowledgeBase,
    access: Access | None = None,
    *,
    page: str = "",
    drawing: DrawingQueue | None = None,
    kept: Kept | None = None,
) -> FastAPI:
    """The server's application; `state.service` does its work.

    Args:
        kb: what is searched, and taken into.
        access: who may ask; anybody, and anything, where it is None.
        page: path below which a page will be mounted that asks for keys by itself; empty for none.
        drawing: draws; None adds no door that does.
        kept: pictures that a URL leads to; this process keeps them where it is None.

    Raises:
        ConfigError: the file of keys is none.
    """
    access = access or Access()
    keys = read_keys(access.keys) if access.keys is not None else []
    service, admission, metrics = Service(kb, allow_hosts=access.allow_hosts), Admission(), Metrics(drawing)
    app = FastAPI(
        title="rag-diffusion knowledge base",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        lifespan=_closing(service),
    )
    app.state.service = service
    if keys:
        app.add_middleware(Keys, keys=keys, to_read=access.key_to_read, rate=access.rate, apart=page)
        plain = app.openapi
        app.openapi = lambda: openapi.secured(plain(), access.key_to_read)  # type: ignore[method-assign]
    limits = {f"/{KNN}": MAX_BODY, f"/{METADATA}": MEBIBYTE, "/pairs": MAX_BODY, "/archives": MAX_ARCHIVE}
    limits |= {f"{page}/gradio_api/upload": MAX_DROPPED} if page else {}
    if drawing is not None:
        limits |= dict.fromkeys(DRAWING, MAX_BODY)
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(Guard, hosts=access.hosts)
    origins = list(access.origins)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["Retry-After"],
        )  # fmt: skip
    app.add_middleware(ApiErrors)
    app.add_middleware(Measured, metrics=metrics)
    _add_errors(app)
    _add_queries(app, service, admission)
    _add_watching(app, service, drawing, metrics)
    add_uploads(app, service, admission, access.read_only, origins)
    if drawing is not None:
        from rag_diffusion.serving.drawing_doors import add_drawing
        from rag_diffusion.serving.drawn_pictures import KeptPictures

        add_drawing(app, drawing, admission, service.pictures, origins, kept or KeptPictures())
    return app


def serve(kb: KnowledgeBase, access: Access, *, host: str, port: int, open_to_all: bool = False) -> None:
    """Serve until interrupted; see `create_app`.

    Args:
        kb: what is searched, and taken into.
        access: who may ask.
        host: address to listen at; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.
        open_to_all: whether other machines may write without a key.

    Raises:
        ConfigError: other machines could write without a key, and nobody said that they may.
    """
    access = check_access(access, host, open_to_all, "kb serve")
    run(create_app(kb, access), host, port)


def check_access(access: Access, host: str, open_to_all: bool, command: str) -> Access:
    """Who may ask a server that listens at `host`.

    Args:
        access: as it was asked for.
        host: address to listen at.
        open_to_all: whether other machines may write without a key.
        command: for the error.

    Returns:
        The same, on this machine alone bound to its own names: a page of another site could come here under a name of
        its own (DNS rebinding).

    Raises:
        ConfigError: other machines could write without a key, and nobody said that they may.
    """
    local = host in LOOPBACK
    if not (local or access.read_only or access.keys or open_to_all):
        raise ConfigError(
            f"{command}: expected --keys FILE, --read-only or --open-to-all with --host {host}, got none of them: "
            "every machine that reaches this one could write"
        )
    return replace(access, hosts=LOOPBACK) if local else access


def run(app: FastAPI, host: str, port: int, *, at_end: Callable[[], None] = lambda: None) -> None:
    """Serve an application until interrupted, within the bounds of `connections`.

    Args:
        app: the application.
        host: address to listen at.
        port: 0 takes a free one.
        at_end: called in the event loop once it was interrupted, before requests under way are waited for.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket] | None = None) -> None:
            at_end()
            await super().shutdown(sockets)

    keep_small()
    config = uvicorn.Config(app, host=host, port=port, http=bounded_protocol(), ws="none", server_header=False)
    server = Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)


def _closing(service: Service) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    return lifespan


def _add_queries(app: FastAPI, service: Service, admission: Admission) -> None:
    @app.post(f"/{KNN}", openapi_extra=openapi.knn_body(), **described(list[Hit], "Results, best first"))
    async def knn(request: Request) -> Any:
        url = image_url(request)
        return await admission.answer_json(
            request,
            FIELDS,
            KnnRequest.model_validate,
            lambda query: admission.fetch if query.needs_fetch else admission.search,
            lambda query: service.knn(query, url),
        )

    @app.post(
        f"/{METADATA}",
        openapi_extra=openapi.metadata_body(),
        **described(list[PairMetadata], "What is known of ids, in their order"),
    )
    async def metadata(request: Request) -> Any:
        url = image_url(request)
        return await admission.answer_json(
            request,
            FIELDS,
            MetadataRequest.model_validate,
            lambda query: admission.search,
            lambda query: service.metadata(query, url),
        )

    @app.get(f"/{INDICES}", **described(list[str], "Names of the indexes: all, and each data set"))
    async def indices() -> Any:
        return await admission.search.answer(service.indices)

    @app.get("/data-sets", **described(list[dict[str, Any]], "What each data set says of its pairs"))
    async def data_sets() -> Any:
        return await admission.search.answer(service.data_sets)

    @app.get("/images/{key}", response_class=PngResponse, **openapi.image_described(KINDS))
    async def image(
        key: Annotated[int, PathParameter(ge=0, lt=2**63)],
        original: Annotated[bool, Query(description=openapi.ORIGINAL, examples=[True])] = False,
    ) -> Response:
        if original:
            file = await admission.search.run(lambda: service.original(key))
            if file is None:
                raise BodyError(404, f"expected the id of a pair whose original is kept, got {key}")
            return response_of(file)
        png = await admission.search.run(lambda: service.image(key))
        if png is None:
            raise BodyError(404, f"expected the id of a pair, got {key}")
        return PngResponse(png, headers={"Cache-Control": "max-age=3600"})


def _add_watching(app: FastAPI, service: Service, drawing: DrawingQueue | None, metrics: Metrics) -> None:
    @app.get("/health", **described(openapi.Health, "Whether the server answers"))
    async def health() -> Any:
        return JSONResponse(service.health())

    @app.get("/ready", **described(openapi.Ready, "Whether all that was started is open", 503))
    async def ready() -> Any:
        if drawing is not None and not drawing.ready:
            return refusal(503, "expected a model that is open, got none yet; come again", Retry_After="5")
        return JSONResponse({"ready": True, "waiting": 0 if drawing is None else drawing.waiting})

    @app.get("/metrics", **openapi.metrics_described())
    async def told() -> Any:
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _add_errors(app: FastAPI) -> None:
    app.add_exception_handler(Exception, unforeseen)

    @app.exception_handler(RagDiffusionError)
    async def known(request: Request, error: RagDiffusionError) -> JSONResponse:
        if isinstance(error, BodyError):
            again = {"Retry_After": str(error.retry_after)} if error.retry_after else {}
            return refusal(error.status, str(error), code=error.code, **again)
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        if status == 500:  # of this machine's files, which are nobody else's matter
            log(request.scope, error)
            return refusal(500, "expected the knowledge base to be whole, got an error; the server's log has it")
        return refusal(status, str(error), **({"Retry_After": "10"} if status == 503 else {}))

    @app.exception_handler(ValidationError)
    async def invalid(request: Request, error: ValidationError) -> JSONResponse:
        return refusal(422, messages(error.errors(include_url=False, include_context=False, include_input=False)))

    @app.exception_handler(RequestValidationError)
    async def invalid_path(request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, messages(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"[:500]
        return JSONResponse({"message": message}, error.status_code, error.headers)
