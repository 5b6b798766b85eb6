"""`rag-diffusion push` and `rag-diffusion kb push`: the model and the knowledge base to Hugging Face, with cards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rag_diffusion.errors import ConfigError
from rag_diffusion.terminal.errors import clean_errors

Repository = Annotated[str, typer.Argument(help="OWNER/NAME on the hub; HF_ENDPOINT names another hub.")]
Out = Annotated[
    Path | None, typer.Option(help="Write the repository into this folder, and upload nothing.", show_default=False)
]
Public = Annotated[bool, typer.Option("--public", help="Make a new repository a public one.")]
Root = Annotated[Path, typer.Option(help="The directory that holds params.yaml.")]


def push_model(
    repository: Repository,
    model: Annotated[Path | None, typer.Option(help="A generator's folder; else the project's own.")] = None,
    out: Out = None,
    public: Public = False,
    root: Root = Path(),
) -> None:
    """Upload the generator to the hub, with a card: what it was trained on, under which licences."""
    from rag_diffusion.project import model_of
    from rag_diffusion.publishing.model import write_model

    with clean_errors():
        folder = model or Path(model_of(root))
        _publish(lambda made: write_model(made, folder, repository), repository, "model", out, public=public)


def push_base(
    repository: Repository,
    data_set: Annotated[list[str] | None, typer.Option(help="This data set alone; may be repeated.")] = None,
    out: Out = None,
    public: Public = False,
    root: Root = Path(),
) -> None:
    """Upload the pairs of the knowledge base to the hub, with a card: licences by count, splits, versions."""
    from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
    from rag_diffusion.publishing.dataset import write_dataset

    with clean_errors():
        pairs = KnowledgeBase.open(root).retriever(data_set).corpus
        _publish(lambda made: write_dataset(made, pairs, repository), repository, "dataset", out, public=public)


def _publish(write: Callable[[Path], object], repository: str, kind: str, out: Path | None, *, public: bool) -> None:
    """Write a repository into `out`, or into a folder that is uploaded and removed."""
    from rag_diffusion.publishing.upload import check_name, upload

    check_name(repository)
    if out is not None:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out}: expected an empty folder, or none; name another one")
        write(out)
        typer.echo(f"{out}: what {repository} would be; nothing was uploaded")
        return
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        write(Path(folder))
        where = upload(Path(folder), repository, "dataset" if kind == "dataset" else "model", private=not public)
    typer.echo(f"uploaded to {where}")
