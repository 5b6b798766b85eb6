"""`rag-diffusion ui`: the page in a browser and the API. Light to import: the command brings the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag_diffusion.errors import ConfigError
from rag_diffusion.extras import need
from rag_diffusion.terminal.errors import clean_errors


def ui(
    project: Annotated[Path, typer.Option(help="The directory that holds params.yaml.")] = Path(),
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets every machine ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 7860,
    model: Annotated[str | None, typer.Option(help="Weights: a folder; the project's own if not given.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Take nothing into the knowledge base.")] = False,
    keys: Annotated[
        Path | None, typer.Option(help="A file of API keys: NAME KEY, then read or write; the page asks for one.")
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open-to-all", help="Other machines may come without a key.")] = False,
    rate: Annotated[int, typer.Option(min=1, help="Requests a minute of one key.")] = 600,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A site whose pages may ask this server, https://example.org (CORS).")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Pictures drawn at once.")] = 8,
    waiting: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures that may wait; then 429.")] = 64,
) -> None:
    """Serve the page, the API that clients of OpenAI speak (/v1), /draw and the knowledge base in one process."""
    with clean_errors():
        need("server", "fastapi", "uvicorn", "multipart", "msgspec", "h11", "gradio", "prometheus_client")
        if not (project / "params.yaml").exists():
            raise ConfigError(
                f"ui: expected params.yaml in {project.resolve()}, found none; run this in a clone of rag-diffusion or "
                "name your project by --project"
            )
        import os

        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        from rag_diffusion.page.mounting import serve_page
        from rag_diffusion.project import model_of
        from rag_diffusion.serving.server import Access

        model = model or model_of(project)  # says at once that there is none
        if port:
            typer.echo(f"the page is at http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/ui (Ctrl-C ends it)")  # noqa: S104
        access = Access(
            read_only=read_only,
            keys=keys,
            key_to_read=keys is not None,
            rate=rate,
            origins=tuple(allow_origin or ()),
        )
        serve_page(
            project,
            access,
            host=host,
            port=port,
            open_to_all=open_to_all,
            model=model,
            batch=batch,
            waiting=waiting,
        )
