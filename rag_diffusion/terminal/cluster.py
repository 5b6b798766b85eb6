"""`rag-diffusion cluster`: a project on several machines. Light to import: the commands bring the rest."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from rag_diffusion.extras import need
from rag_diffusion.terminal.errors import clean_errors

cluster = typer.Typer(no_args_is_help=True, help="A project on several machines, by Ray; see docs/several-machines.md.")


@cluster.callback()
def _group() -> None:
    """Keep `serve` a command of its own."""


@cluster.command()
def serve(
    project: Annotated[Path, typer.Option(help="The directory that holds params.yaml, on every machine.")] = Path(),
    replicas: Annotated[int, typer.Option(min=1, help="Servers with a pipeline each.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Pictures that a replica draws at once.")] = 8,
    model: Annotated[str | None, typer.Option(help="Weights: a folder; the project's own if not given.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets every machine ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option(help="A file of API keys: NAME KEY, then read or write.")] = None,
) -> None:
    """Serve /draw, the images API, the knowledge base (to read) and /shards by replicas, until Ctrl-C."""
    with clean_errors():
        need("server", "fastapi", "uvicorn", "multipart", "msgspec", "h11", "prometheus_client")
        need("ray", "ray")
        from rag_diffusion.config import load_config
        from rag_diffusion.engine.cluster import check_port, connect
        from rag_diffusion.knowledge.catalogue import Catalogue
        from rag_diffusion.project import model_of
        from rag_diffusion.serving.keys import read_keys

        root, keys = project.resolve(), keys.resolve() if keys else None
        config = load_config(root / "params.yaml").ray
        check_port(config, host, port)  # what is missing is told before anything heavy, or a cluster, is there
        if keys:
            read_keys(keys)
        model = model or model_of(root)
        catalogue = Catalogue.light(root)
        for name in catalogue.searchable():
            catalogue.check_present(catalogue.info(name))
        from rag_diffusion.serving.on_ray import served
        from rag_diffusion.serving.server import Access, check_access

        access = Access(read_only=True, keys=keys, key_to_read=keys is not None)
        access = check_access(access, host, False, "cluster serve")
        connect(config)
        signal.signal(signal.SIGTERM, _end)  # Ray's own ends the cluster before what it serves
        with (
            suppress(KeyboardInterrupt),
            served(root, replicas=replicas, batch=batch, model=model, access=access, host=host, port=port) as url,
        ):
            typer.echo(f"replicas: {replicas}, at {url} (Ctrl-C ends them)")
            signal.pause()


def _end(number: int, frame: FrameType | None) -> None:
    """End at the first SIGTERM, with all that is served; another one, as `timeout` sends, does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
