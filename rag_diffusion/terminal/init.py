"""`rag-diffusion init FOLDER`: a project of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag_diffusion.terminal.errors import clean_errors

_BASE_HELP = (
    "The base generator: a folder with one of ours, a clone of rag-diffusion or its git URL, from which it is fetched; "
    "or a published pipeline by folder or hub name. In a checkout it is the checkout's."
)


def init(
    folder: Annotated[Path, typer.Argument(help="the project's folder; files that are there stay as they are")],
    base: Annotated[str, typer.Option(help=_BASE_HELP)] = "",
) -> None:
    """Make a project of your own: params.yaml, dvc.yaml, a code location for Dagster, DVC and git set up."""
    from rag_diffusion.new_project import PICTURES, make_project

    with clean_errors():
        made = make_project(folder, base)
        typer.echo(f"{folder}: {len(made.written)} files written" if made.written else f"{folder}: nothing to write")
        if made.kept:
            typer.echo(f"kept as they were: {', '.join(made.kept)}")
        if not made.base:
            typer.echo(
                "no base generator yet: `rag-diffusion init FOLDER --base CLONE_OR_URL_OR_NAME` brings or names one"
            )
        else:
            typer.echo(f"base generator: {made.base}")
        typer.echo(f"next: put pictures with captions into {folder / PICTURES}, then run `dvc repro` in {folder}")
