"""Upload of a folder to the hub, one commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from rag_diffusion.errors import ConfigError, RemoteError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(?<![.-])", re.ASCII)
Kind = Literal["dataset", "model"]


def check_name(name: str) -> None:
    """Refuse a `name` that no repository can have.

    Raises:
        ConfigError: it is none.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(f"push: expected OWNER/NAME, of letters, digits and single - _ . between them, got {name!r}")


def upload(folder: Path, name: str, kind: Kind, *, private: bool = True) -> str:
    """Make the repository where there is none, and upload a folder into it as one commit.

    Args:
        folder: all that the repository is to have; files that lie there and are not in it stay.
        name: OWNER/NAME.
        kind: of the repository.
        private: whether a new repository is.

    Returns:
        Where it is.

    Raises:
        ConfigError: the name is none.
        RemoteError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_name(name)
    hub = HfApi(library_name="rag-diffusion")
    try:
        hub.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=name, repo_type=kind, folder_path=folder, commit_message="Upload by rag-diffusion"
        )
    except Exception as error:  # of its client for HTTP, which changes from version to version, too
        text = " ".join(str(error).split())[:300]
        raise RemoteError(
            f"push: expected the hub to take {name}, got: {text}; log in by `hf auth login`, or write the folder alone "
            "by --out FOLDER"
        ) from None
    return str(commit.commit_url).rpartition("/commit/")[0] or str(commit.commit_url)
