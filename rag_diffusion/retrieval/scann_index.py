"""Nearest neighbors by inner product through ScaNN, the authors' own anisotropic quantization; extra `scann`.

A tree prunes, codes of 4 bits for two dimensions, learned under the score-aware loss, rank. The vectors themselves are
not held: hits are scored again by `rescored.Rescored`.

Shapes: N vectors, Q queries, D width, k hits.

Source: Guo et al. 2020, arXiv:1908.10396, by their library; patent [0064-65].
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.errors import DataError
from rag_diffusion.extras import need
from rag_diffusion.retrieval.ann import rising
from rag_diffusion.store.vectors import Rows

_DIMENSIONS = 2  # of a code
_THRESHOLD = 0.2  # T: of the inner products of unit vectors, from which on errors along the vector count more
_TRAINED_ON = 100_000  # vectors
_FILES = (  # what the library writes; none of them is a pickle
    "ah_codebook.pb", "datapoint_to_token.npy", "hashed_dataset.npy", "scann_assets.pbtxt", "scann_config.pb",
    "serialized_partitioner.pb",
)  # fmt: skip


class ScannIndex:
    """An index of ScaNN over unit vectors; row numbers are ids.

    Args:
        searcher: of the library.
        rows: N.
        width: D.
        leaves: of its tree.
    """

    def __init__(self, searcher: Any, *, rows: int, width: int, leaves: int) -> None:
        self._searcher, self._rows, self._width, self._leaves = searcher, rows, width, leaves
        self._searched = 1

    def __len__(self) -> int:
        return self._rows

    @property
    def width(self) -> int:
        """D."""
        return self._width

    @classmethod
    def build(cls, vectors: Rows, leaves: int) -> ScannIndex:
        """Train and fill an index; the library takes all vectors into memory at once for it.

        Args:
            vectors: (N, D) unit vectors.
            leaves: of the tree.

        Raises:
            MissingExtraError: ScaNN is not installed.
        """
        library = _library()
        table = np.ascontiguousarray(vectors, dtype=np.float32)
        builder = library.builder(table, 10, "dot_product")
        builder = builder.tree(
            num_leaves=leaves, num_leaves_to_search=1, training_sample_size=min(len(table), _TRAINED_ON)
        )
        builder = builder.score_ah(_DIMENSIONS, anisotropic_quantization_threshold=_THRESHOLD)
        return cls(builder.build(), rows=len(table), width=table.shape[1], leaves=leaves)

    def parameters(self) -> dict[str, list[int]]:
        """See `SearchIndex.parameters`: how many leaves are looked into."""
        return {"leaves": rising(self._leaves)}

    def use(self, point: Mapping[str, int]) -> None:
        """See `SearchIndex.use` for `point`."""
        self._searched = point["leaves"]

    def save(self, path: Path) -> None:
        """Write all files of the library into one, the tar file `path`."""
        with tempfile.TemporaryDirectory(dir=path.parent) as name, tarfile.open(path, "w") as archive:
            self._searcher.serialize(name, relative_path=True)
            for file in sorted(Path(name).iterdir()):
                archive.add(file, file.name, filter=_anonymous)
            facts = f"{self._rows} {self._width} {self._leaves}".encode()
            entry = tarfile.TarInfo("facts.txt")
            entry.size = len(facts)
            archive.addfile(entry, io.BytesIO(facts))

    @classmethod
    def load(cls, path: Path, *, remedy: str = "run the stage `index` again") -> ScannIndex:
        """Read an index.

        Args:
            path: the file.
            remedy: what makes a new one.

        Raises:
            MissingExtraError: ScaNN is not installed.
            DataError: it is missing or damaged.
        """
        library = _library()
        try:
            with tempfile.TemporaryDirectory() as name, tarfile.open(path, "r:") as archive:
                for file in _FILES:  # not by extractall, whose filter Python 3.11.2 (Debian 12) does not have
                    with _member(archive, file) as content, (Path(name) / file).open("wb") as out:
                        shutil.copyfileobj(content, out)
                with _member(archive, "facts.txt") as facts:
                    rows, width, leaves = map(int, facts.read().split())
                return cls(library.load_searcher(name), rows=rows, width=width, leaves=leaves)
        except (OSError, RuntimeError, KeyError, ValueError, tarfile.TarError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"{path}: expected an index of ScaNN, got {reason[-1]}; {remedy}") from None

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`; inner products are those of the codes."""
        queries, k = np.ascontiguousarray(queries, dtype=np.float32), min(k, len(self))
        asked = {"final_num_neighbors": k, "leaves_to_search": self._searched}
        if len(queries) == 1:
            found, products = self._searcher.search(queries[0], **asked)
            rows, scores = np.full((1, k), -1), np.full((1, k), np.nan, dtype=np.float32)
            rows[0, : len(found)], scores[0, : len(found)] = found, products
            return scores, rows
        found, scores = self._searcher.search_batched(queries, **asked)
        return scores, np.where(np.isnan(scores), -1, found.astype(np.int64))


def library_version() -> str:
    """Of the ScaNN that is installed.

    Raises:
        MissingExtraError: none is.
    """
    need("scann", "scann")
    return version("scann")


def _library() -> Any:
    need("scann", "scann")
    from scann import scann_ops_pybind  # 60 ms, and an extra

    return scann_ops_pybind


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    content = archive.extractfile(name)
    if content is None:
        raise ValueError(f"no file {name}")
    return content


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
    return entry
