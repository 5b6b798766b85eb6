"""The project's folder as another machine sees it: its files must be those that a work is of."""

from __future__ import annotations

from pathlib import Path

from rag_diffusion.errors import LineageError
from rag_diffusion.layout import CORPUS
from rag_diffusion.store.pair_set import PairSet
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.pipeline_corpus import read_corpus


def open_pairs(root: Path, corpus_hash: str) -> Pairs:
    """The corpus of a project, of whose images those that are asked for are read.

    Args:
        root: the project.
        corpus_hash: that it must have.

    Raises:
        DataError: it is missing or damaged.
        LineageError: it is another one.
    """
    _, manifest = read_corpus(root / CORPUS)
    same_files(root / CORPUS, corpus_hash, manifest.hash)
    return Pairs([PairSet.of_corpus(root / CORPUS, manifest)], manifest.image_size)


def same_files(path: Path, expected: str, got: str) -> None:
    """Refuse files of a machine that are not those which the work is of.

    Args:
        path: of the files.
        expected: hash of those that the work is of.
        got: hash of these.

    Raises:
        LineageError: they differ.
    """
    if got != expected:
        raise LineageError(
            f"{path}: expected the files with hash {expected[:12]} that the work is of, got {got[:12]}; this machine "
            "has old ones or others: let all machines see the same project folder"
        )
