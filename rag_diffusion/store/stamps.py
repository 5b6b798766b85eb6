"""What an artifact of the pipeline was made from: the hash of its corpus, and whatever else decided it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.layout import STAMP_FILE


def write_stamp(folder: Path, stamp: Mapping[str, object]) -> None:
    """Write what the artifact in a `folder` was made from, a `stamp`, as stamp.json."""
    (folder / STAMP_FILE).write_text(json.dumps(dict(stamp), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_stamp(folder: Path, corpus_hash: str, *, stage: str) -> dict[str, object]:
    """Read an artifact's stamp and compare its corpus.

    Args:
        folder: the artifact.
        corpus_hash: hash of the corpus at hand.
        stage: the stage that makes the artifact, named in the errors.

    Returns:
        The stamp.

    Raises:
        DataError: there is no artifact, or its stamp is damaged.
        LineageError: it was made from another corpus.
    """
    try:
        stamp = json.loads((folder / STAMP_FILE).read_text(encoding="utf-8"))
        made_from = str(stamp["corpus_hash"])
    except FileNotFoundError:
        raise DataError(
            f"{folder}: expected an artifact with {STAMP_FILE}, found none; run the stage `{stage}`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / STAMP_FILE}: expected a stamp, got {error!r}; run the stage `{stage}` again"
        ) from None
    if made_from != corpus_hash:
        raise LineageError(
            f"{folder}: expected an artifact of corpus {corpus_hash}, got one made from corpus "
            f"{made_from}; "
            f"run the stage `{stage}` again"
        )
    assert isinstance(stamp, dict)
    return stamp
