"""What a knowledge base needs of an encoder, and the identity of a dual encoder's folder, told without loading it:
commands that only list need no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rag_diffusion.errors import ModelError
from rag_diffusion.files import tree_hash

if TYPE_CHECKING:  # numpy takes a tenth of a second
    from rag_diffusion.arrays import Floats, Pixels


class PairEncoder(Protocol):
    """Images and captions into unit vectors of one space; called from several threads."""

    @property
    def hash(self) -> str:
        """Identity of the weights."""
        ...

    def images(self, pixels: Pixels) -> Floats:
        """(N, D) unit vectors of images `pixels` (N, H, W, 3) uint8."""
        ...

    def texts(self, texts: Sequence[str]) -> Floats:
        """(N, D) unit vectors of N `texts`."""
        ...


class EncoderFolder:
    """A folder that holds a dual encoder.

    Args:
        folder: data/encoder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: tuple[object, str] | None = None

    @property
    def hash(self) -> str:
        """Of the folder; read again when a file of it has changed.

        Raises:
            ModelError: there is no folder.
        """
        if not self._folder.is_dir():
            raise ModelError(
                f"{self._folder}: expected the dual encoder that makes vectors, found none; run `dvc repro align`, or "
                "copy the folder from a project that has one"
            )
        files = sorted(path for path in self._folder.rglob("*") if path.is_file())
        state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        if self._known is None or self._known[0] != state:
            self._known = (state, tree_hash(self._folder))
        return self._known[1]
