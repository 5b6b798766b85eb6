"""What a command says when it cannot go on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rag_diffusion.errors import RagDiffusionError


@contextmanager
def clean_errors() -> Iterator[None]:
    """One message and exit code 1 for an error made on purpose; a traceback for any other."""
    try:
        yield
    except RagDiffusionError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        typer.echo(f"error: the disk is full ({error}); free some space and run it again", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; run it again to go on", err=True)
        raise typer.Exit(130) from None
