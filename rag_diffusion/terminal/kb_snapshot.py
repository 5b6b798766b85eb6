"""`rag-diffusion kb snapshot` and `kb restore`: versions of data sets, kept by DVC's own commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.terminal.errors import clean_errors

Root = Annotated[Path, typer.Option(help="The directory that holds params.yaml.")]
Names = Annotated[list[str] | None, typer.Argument(help="of data sets; all where none is named")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for who writes a data set.")]


def snapshot(names: Names = None, root: Root = Path(), wait: Wait = 60.0) -> None:
    """Have DVC track data sets as they are now: git keeps which version it was, `dvc push` copies it to a remote."""
    from rag_diffusion.knowledge.places import Places
    from rag_diffusion.knowledge.snapshot import take
    from rag_diffusion.knowledge.versions import dvc_path, note, snapshots

    with clean_errors():
        chosen = names or Places(root).names()
        if not chosen:
            raise ConfigError("kb snapshot: expected a data set, found none; run `rag-diffusion kb add NAME PATH`")
        before = {name: snapshots(root, name)[:1] for name in chosen}
        made = [take(root, name, wait=wait) for name in chosen]
        done = _dvc(root, "add", "--no-relink", *(f"data/snapshots/{name}" for name in chosen))
        if done.returncode:
            raise DataError(f"kb snapshot: expected `dvc add` to end well, got\n{done.stdout}{done.stderr}")
        for manifest in made:
            note(root, manifest)
            typer.echo(f"{manifest.name}: {manifest.num_pairs} pairs, version {manifest.hash[:12]}")
            for one in before[manifest.name]:
                if not one.commit and one.version.hash != manifest.hash:
                    typer.echo(f"warning: version {one.version.hash[:12]} was not committed; nothing names it any more")
        typer.echo(
            f"tracked by {', '.join(dvc_path(name) for name in chosen)}; "
            "keep it with `git add data/snapshots && git commit`, copy it to a remote with `dvc push`"
        )


def restore(
    names: Names = None,
    root: Root = Path(),
    version: Annotated[str, typer.Option(help="Of one data set: the hash of its pairs, or how it begins.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also where what lies there now is in no snapshot, and is lost.")
    ] = False,
    wait: Wait = 60.0,
) -> None:
    """Bring data sets back as a snapshot has them, from DVC's cache or its remote: the present one, or `--version`."""
    with clean_errors():
        chosen = names or sorted(path.stem for path in (root / "data/snapshots").glob("*.dvc"))
        if not chosen:
            raise ConfigError("kb restore: expected a snapshot, found no data/snapshots/*.dvc; run `git pull`?")
        if version and len(chosen) != 1:
            raise ConfigError(f"kb restore --version: expected the name of one data set, got {', '.join(chosen)}")
        for name in chosen:
            _restore(root, name, version, force=force, wait=wait)


def _restore(root: Path, name: str, version: str, *, force: bool, wait: float) -> None:
    from rag_diffusion.knowledge.catalogue import Catalogue
    from rag_diffusion.knowledge.snapshot import put_back, unsaved
    from rag_diffusion.terminal.kb_report import as_text

    lost = unsaved(root, name)
    if lost is not None and not force:
        raise ConfigError(
            f"kb restore: expected what lies there now to be in a snapshot, but version {lost.hash[:12]} of {name!r} "
            f"({lost.num_pairs} pairs) is in none; `rag-diffusion kb snapshot {name}` keeps it, --force loses it"
        )
    _choose(root, name, version, force=force)
    _bring(root, name)
    manifest = put_back(root, name, wait=wait)
    typer.echo(as_text(manifest))
    for one in Catalogue.light(root).list():
        if one.manifest.name == name and one.trouble:
            typer.echo(f"{name}: {one.trouble}")


def _choose(root: Path, name: str, version: str, *, force: bool) -> None:
    """Make the .dvc file that of a version."""
    from rag_diffusion.files import atomic_write
    from rag_diffusion.knowledge.versions import dvc_path, find, snapshots

    path = root / dvc_path(name)
    if version:
        wanted, present = find(root, name, version), snapshots(root, name)[0]
        if wanted.dvc_file != present.dvc_file and path.is_file() and not present.commit and not force:
            raise ConfigError(
                f"kb restore: expected {path} to be in git before it names another version; commit it, or give --force"
            )
        atomic_write(path, wanted.dvc_file)
    elif not path.is_file():
        raise DataError(
            f"{path}: expected a snapshot of {name!r}, found none; `rag-diffusion kb snapshot {name}` makes one, and "
            "`git log --all -- data/snapshots` tells of earlier ones"
        )


def _bring(root: Path, name: str) -> None:
    """Have DVC lay out the folder that the .dvc file names: from its cache, else from its remote."""
    target = f"data/snapshots/{name}.dvc"
    if _dvc(root, "checkout", "--force", target).returncode:
        done = _dvc(root, "pull", "--force", target)
        if done.returncode:
            raise DataError(
                f"kb restore: expected DVC to have {target} in its cache or a remote, got\n{done.stdout}{done.stderr}"
            )


def _dvc(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of DVC, in a process of its own: this library does not know it."""
    words: Sequence[str] = [sys.executable, "-m", "dvc", "--wait-for-lock", *command]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
