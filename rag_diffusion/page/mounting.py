"""`rag-diffusion ui`: the page on the same application as the knowledge base's server.

The page lies at `/ui`, and `/` leads there. It loads nothing from elsewhere, which a Content-Security-Policy sees to.
Where the server has keys, the page asks for one by gradio's login: the key's name, and the key. A request of another
site's page is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI
from starlette.responses import RedirectResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.page.blocks import CSS, build, theme
from rag_diffusion.page.handlers import Handlers
from rag_diffusion.page.streaming import Drawer
from rag_diffusion.serving.drawing_queue import BATCH, WAITING
from rag_diffusion.serving.keys import Key, key_of, read_keys
from rag_diffusion.serving.request_guard import refusal
from rag_diffusion.serving.server import Access, check_access, create_app, run

PATH = "/ui"
MAX_FILE = 64 << 20  # bytes of a dropped file
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'; "
    b"form-action 'self'"
)


def serve_page(
    root: Path,
    access: Access,
    *,
    host: str,
    port: int,
    open_to_all: bool = False,
    model: str | None = None,
    batch: int = BATCH,
    waiting: int = WAITING,
) -> None:
    """Serve the page, the API and the knowledge base until interrupted.

    Args:
        root: of the project.
        access: who may ask; see `serving.server`.
        host: address to listen at; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.
        open_to_all: whether other machines may come without a key.
        model: weights by name; None is the project's own.
        batch: pictures drawn at once.
        waiting: pictures that may wait.

    Raises:
        ConfigError: there is no project here, or other machines could come without a key and nobody said that they may.
    """
    access = check_access(access, host, open_to_all, "ui")
    base = KnowledgeBase.open(root)
    drawer = Drawer(root, base, model, batch=batch, waiting=waiting)
    try:
        app = mounted(create_app(base, access, page=PATH, drawing=drawer.queue), base, drawer, access)
        run(app, host, port, at_end=lambda: _part(app, drawer))
    finally:
        drawer.close()


def mounted(app: FastAPI, base: KnowledgeBase, drawer: Drawer, access: Access) -> FastAPI:
    """The application with the page on it.

    Args:
        app: of `create_app`, with `page=PATH`.
        base: is searched, and taken into.
        drawer: draws.
        access: who may ask.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    keys = read_keys(access.keys) if access.keys is not None else []
    handlers = Handlers(base, drawer, app.state.service.insert)
    page = build(handlers, base.config, may_add=lambda name: _may_add(keys, access, name))
    app.add_api_route("/", _lead, include_in_schema=False)
    app.add_middleware(PageGuard)
    gr.mount_gradio_app(
        app,
        page,
        PATH,
        auth=(lambda name, key: _known(keys, name, key)) if keys else None,
        auth_message="A key of this server: its name, and the key.",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS.read_text(encoding="utf-8"),
    )
    return app


class PageGuard:
    """ASGI middleware: pages of other sites may not post to the page, nor the page load anything of theirs.

    Args:
        app: what is called.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or not (scope["path"] + "/").startswith(f"{PATH}/"):
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin", b"")
        if origin and urlsplit(origin).netloc != headers.get(b"host"):
            await refusal(403, "expected a request of the server's own page, got one of another site")(
                scope, receive, send
            )
            return

        async def bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer")]
                message = dict(message) | {"headers": [*message.get("headers", []), *more]}
            await send(message)

        await self._app(scope, receive, bound)


def _part(app: FastAPI, drawer: Drawer) -> None:
    """End the connections that open pages hold, and what is drawn for them."""
    drawer.leave()
    pages = [route.app for route in app.routes if isinstance(route, Mount) and route.path == PATH]
    for page in pages:
        page.stop_event.set()  # type: ignore[attr-defined]


def _lead() -> Any:
    return RedirectResponse(f"{PATH}/")


def _known(keys: list[Key], name: str, key: str) -> bool:
    known_key = key_of(keys, key)
    return known_key is not None and known_key.name == name


def _may_add(keys: list[Key], access: Access, name: str | None) -> bool:
    return not access.read_only and (not keys or any(key.name == name and key.writes for key in keys))
