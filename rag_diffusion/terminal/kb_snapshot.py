"""`rag-diffusion kb snapshot` and `kb restore`: versions of data sets, kept by DVC's own commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.layout import SNAPSHOTS
from rag_diffusion.terminal.errors import clean_errors

Root = Annotated[Path, typer.Option(help="The directory that holds params.yaml.")]
Names = Annotated[list[str] | None, typer.Argument(help="of data sets; all where none is named")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for who writes a data set.")]


def snapshot(names: Names = None, root: Root = Path(), wait: Wait = 60.0) -> None:
    """Have DVC track data sets as they are now: git keeps which version it was, `dvc push` copies it to a remote."""
    from rag_diffusion.knowledge.folders import DataSetFolders
    from rag_diffusion.knowledge.snapshot import take, versioning
    from rag_diffusion.knowledge.versions import dvc_path, note, snapshots

    with clean_errors():
        chosen = names or DataSetFolders(root).names()
        if not chosen:
            raise ConfigError("kb snapshot: expected a data set, found none; run `rag-diffusion kb add NAME PATH`")
        with versioning(root, wait=wait):
            before = {name: snapshots(root, name)[:1] for name in chosen}
            manifests = [take(root, name, wait=wait) for name in chosen]
            done = _dvc(root, "add", "--no-relink", *(f"{SNAPSHOTS}/{name}" for name in chosen))
            if done.returncode:
                raise DataError(f"kb snapshot: expected `dvc add` to end well, got\n{done.stdout}{done.stderr}")
            for manifest in manifests:
                note(root, manifest)
        for manifest in manifests:
            typer.echo(f"{manifest.name}: {manifest.num_pairs} pairs, version {manifest.hash[:12]}")
            for earlier in before[manifest.name]:
                if not earlier.commit and earlier.version.hash != manifest.hash:
                    lost = earlier.version.hash[:12]
                    typer.echo(f"warning: version {lost} was not committed; nothing names it any more")
        typer.echo(
            f"tracked by {', '.join(dvc_path(name) for name in chosen)}; "
            f"keep it with `git add {SNAPSHOTS} && git commit`, copy it to a remote with `dvc push`"
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
    from rag_diffusion.knowledge.snapshot import versioning

    with clean_errors(), versioning(root, wait=wait):
        chosen = names or sorted(path.stem for path in (root / SNAPSHOTS).glob("*.dvc"))
        if not chosen:
            raise ConfigError("kb restore: expected a snapshot, found no data/snapshots/*.dvc; run `git pull`?")
        if version and len(chosen) != 1:
            raise ConfigError(f"kb restore --version: expected the name of one data set, got {', '.join(chosen)}")
        for name in chosen:
            _restore(root, name, version, force=force, wait=wait)


def _restore(root: Path, name: str, version: str, *, force: bool, wait: float) -> None:
    from rag_diffusion.knowledge.catalogue import Catalogue
    from rag_diffusion.knowledge.snapshot import check_saved, put_back
    from rag_diffusion.terminal.kb_report import as_text

    if not force:
        check_saved(root, name)  # before DVC lays out a folder; again, and for good, when nobody else writes
    _choose(root, name, version, force=force)
    _lay_out(root, name)
    manifest = put_back(root, name, wait=wait, force=force)
    typer.echo(as_text(manifest))
    for entry in Catalogue.light(root).list():
        if entry.manifest.name == name and entry.trouble:
            typer.echo(f"{name}: {entry.trouble}")


def _choose(root: Path, name: str, version: str, *, force: bool) -> None:
    """Make the .dvc file that of a version."""
    from rag_diffusion.files import atomic_write
    from rag_diffusion.knowledge.versions import dvc_path, find_snapshot, snapshots

    path = root / dvc_path(name)
    if version:
        wanted, present = find_snapshot(root, name, version), snapshots(root, name)[0]
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


def _lay_out(root: Path, name: str) -> None:
    """Let DVC lay out the folder that the .dvc file names: from its cache, else from its remote."""
    target = f"{SNAPSHOTS}/{name}.dvc"
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
