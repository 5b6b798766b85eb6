"""An index in a file, and beside it what it is: library, factory, size, and the operating point that was chosen.

Shapes: N vectors, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.retrieval.ann import Nearest, SearchIndex, VectorIndex, check_factory, library_version
from rag_diffusion.retrieval.factories import Factory, leaves_of
from rag_diffusion.retrieval.rescored import Rescored
from rag_diffusion.retrieval.scann_index import ScannIndex
from rag_diffusion.retrieval.scann_index import library_version as scann_version
from rag_diffusion.store.vectors import Rows

FORMAT = 1  # of the description
DESCRIPTION = ".json"  # after the name of the index's file
_KINDS = {
    "format": int, "factory": str, "library": str, "version": str, "rows": int, "width": int, "bytes": int,
    "operating_point": dict,
}  # fmt: skip


def check_known(text: str, width: int) -> None:
    """Refuse an index that cannot be made, however few vectors there are yet.

    Args:
        text: `index.factory`, not `auto`.
        width: D of the vectors.

    Raises:
        ConfigError: there is no such index.
    """
    match Factory.parse(text):
        case Factory(library="faiss", coarse=coarse):
            check_factory(coarse, width)


def build_index(vectors: Rows, text: str) -> SearchIndex:
    """Train and fill an index.

    Args:
        vectors: (N, D) unit vectors, in memory or mapped.
        text: `index.factory`, not `auto`.

    Raises:
        ConfigError: there is no such index, or not of so few vectors.
        MissingExtraError: its library is not installed.
    """
    factory = Factory.parse(text)
    coarse: SearchIndex
    if factory.library == "scann":
        coarse = ScannIndex.build(vectors, leaves_of(factory, len(vectors)))
    else:
        coarse = VectorIndex.build(vectors, factory.coarse)
    return Rescored(coarse, vectors) if factory.rescored else coarse


def save_index(path: Path, index: SearchIndex, factory: str, point: Mapping[str, int]) -> None:
    """Write an index and its description.

    Args:
        path: of the index; the description lies beside it.
        index: is written.
        factory: that it was made by.
        point: its operating point.
    """
    index.save(path)
    described = {
        "format": FORMAT,
        "factory": factory,
        "library": Factory.parse(factory).library,
        "version": _version(Factory.parse(factory).library),
        "rows": len(index),
        "width": index.width,
        "bytes": path.stat().st_size,
        "operating_point": dict(point),
    }
    _description(path).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load_index(path: Path, vectors: Rows, remedy: str) -> Nearest:
    """Read an index and set its operating point.

    Args:
        path: of the index.
        vectors: (N, D) that it should be over.
        remedy: what makes a new one, for errors.

    Raises:
        DataError: it or its description is missing or damaged.
        LineageError: it is of other vectors, or of another version.
        MissingExtraError: its library is not installed.
    """
    described = _read(path, remedy)
    if described["format"] != FORMAT:
        raise LineageError(f"{path}: expected an index of format {FORMAT}, got {described['format']}; {remedy}")
    if (described["rows"], described["width"]) != vectors.shape:
        raise _other_vectors(path, vectors, described["rows"], described["width"], remedy)
    size = path.stat().st_size if path.is_file() else 0
    if size != described["bytes"]:
        raise DataError(f"{path}: expected an index of {described['bytes']} bytes, got {size}; {remedy}")
    factory, index = Factory.parse(described["factory"]), _load(path, described, remedy)
    if (len(index), index.width) != vectors.shape:
        raise _other_vectors(path, vectors, len(index), index.width, remedy)
    index = Rescored(index, vectors) if factory.rescored else index
    point = described["operating_point"]
    if point.keys() != index.parameters().keys():
        raise DataError(
            f"{_description(path)}: expected an operating point of {sorted(index.parameters())}, got {point}; {remedy}"
        )
    index.use(point)
    return index


def _load(path: Path, described: Mapping[str, Any], remedy: str) -> SearchIndex:
    """The index of the library that a description names."""
    if described["library"] != "scann":
        return VectorIndex.load(path, remedy=remedy)
    if described["version"] != scann_version():
        raise LineageError(
            f"{path}: expected an index of ScaNN {scann_version()}, got {described['version']}; {remedy}"
        )
    return ScannIndex.load(path, remedy=remedy)


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        described = json.loads(_description(path).read_text(encoding="utf-8"))
        for name, kind in _KINDS.items():
            if type(described[name]) is not kind:
                raise TypeError(f"{name}: {described[name]!r}")
        for name, value in described["operating_point"].items():
            if type(value) is not int or value < 1:
                raise TypeError(f"{name}: {value!r}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = error if not isinstance(error, KeyError) else f"no {error}"
        raise DataError(f"{_description(path)}: expected the description of an index, got {reason}; {remedy}") from None
    return dict(described)


def _description(path: Path) -> Path:
    return path.with_name(path.name + DESCRIPTION)


def _other_vectors(path: Path, vectors: Rows, rows: int, width: int, remedy: str) -> LineageError:
    return LineageError(
        f"{path}: expected an index of {len(vectors)} vectors of width {vectors.shape[1]}, got one of {rows} and "
        f"{width}; {remedy}"
    )


def _version(library: str) -> str:
    return scann_version() if library == "scann" else library_version()
