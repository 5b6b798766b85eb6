"""Image and text vectors of every pair, stamped with the corpus and the encoder they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rag_diffusion.arrays import Floats
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.layout import STAMP_FILE
from rag_diffusion.store.corpus import Corpus

VECTORS_FILE = "vectors.safetensors"


class Rows(Protocol):
    """(N, D) float32, in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...

    def __array__(self) -> Floats: ...


class VectorTable(Protocol):
    """Unit vectors of images and captions, row by row."""

    @property
    def image(self) -> Rows:
        """(N, D)."""
        ...

    @property
    def text(self) -> Rows:
        """(N, D)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Unit vectors in the order of `corpus.table`.

    Attributes:
        image: (N, D) float32.
        text: (N, D) float32, of the captions.
        corpus_hash: the corpus they were made from.
        encoder_hash: hash of the encoder's folder.
    """

    image: Floats
    text: Floats
    corpus_hash: str
    encoder_hash: str

    def save(self, folder: Path) -> None:
        """Write vectors and stamp into an existing folder."""
        save_file({"image": self.image, "text": self.text}, folder / VECTORS_FILE)
        stamp = {"corpus_hash": self.corpus_hash, "encoder_hash": self.encoder_hash}
        write_stamp(folder, stamp | {"dim": self.image.shape[1]})

    @classmethod
    def open(cls, folder: Path | str, corpus: Corpus) -> Vectors:
        """Read the vectors of a corpus.

        Raises:
            DataError: they are missing or damaged.
            LineageError: they were made from another corpus.
        """
        folder = Path(folder)
        stamp = check_stamp(folder, corpus.hash, stage="embed")
        try:
            arrays = load_file(folder / VECTORS_FILE)
            image, text = arrays["image"], arrays["text"]
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(
                f"{folder / VECTORS_FILE}: expected image and text vectors, got {error}; run the stage `embed` again"
            ) from None
        if len(image) != len(corpus) or len(text) != len(corpus):
            raise LineageError(
                f"{folder}: expected {len(corpus)} vectors, got {len(image)} of images and "
                f"{len(text)} of captions; "
                "run the stage `embed` again"
            )
        return cls(image=image, text=text, corpus_hash=corpus.hash, encoder_hash=str(stamp["encoder_hash"]))


def write_stamp(folder: Path, stamp: Mapping[str, object]) -> None:
    """Write what an artifact was made from, as stamp.json."""
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
