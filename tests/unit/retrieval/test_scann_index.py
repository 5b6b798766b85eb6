"""ScaNN behind the interface of faiss; skipped where it is not installed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError, LineageError, MissingExtraError
from rag_diffusion.retrieval.indexes import build_indexes, open_indexes
from rag_diffusion.retrieval.scann_index import ScannIndex
from rag_diffusion.store.vectors import Vectors
from tests.unit.retrieval.made_vectors import REMEDY, ROWS, config, exact, made_vectors

pytest.importorskip("scann")


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return made_vectors()


@pytest.fixture(scope="module")
def folder(vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scann")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rag_diffusion.retrieval.indexes.RECALL_QUERIES", 200)
        patch.setattr("rag_diffusion.retrieval.operating_point._TIMED", 20)
        report = build_indexes(folder, vectors, config("ScaNN"))
    assert report["passed"]
    assert set(report["operating_points"]["image"]) == {"leaves", "candidates"}
    return folder


def test_it_is_kept_and_opened_like_any_index(folder: Path, vectors: Vectors) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "image.index", "image.index.json", "recall.json", "text.index", "text.index.json",
    ]  # fmt: skip
    queries = vectors.text[::30]
    for name, index in open_indexes(folder, vectors, "ScaNN", REMEDY).items():
        base = vectors.image if name == "text_to_image" else vectors.text
        scores, rows = index.search(queries, 10)
        assert (scores >= exact(base, queries, 10)[:, -1:] - 1e-5).mean() >= 0.9
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, base[rows]), atol=1e-6)
        alone = index.search(queries[:1], 10)
        np.testing.assert_array_equal(alone[1], rows[:1])


def test_fewer_hits_than_asked_for_are_filled_with_none(vectors: Vectors) -> None:
    index = ScannIndex.build(vectors.image, 50)
    for queries in (vectors.text[:1], vectors.text[:3]):
        rows = index.search(queries, 2000)[1]
        assert rows.shape == (len(queries), 2000)
        found = rows[0][rows[0] >= 0]
        assert 0 < len(found) < 2000
        assert len(set(found.tolist())) == len(found)
        assert (rows[0][len(found) :] == -1).all()


def test_damage_another_version_and_foreign_files_are_told(folder: Path, vectors: Vectors, tmp_path: Path) -> None:
    told = json.loads((folder / "image.index.json").read_text())
    content = (folder / "image.index").read_bytes()

    def opened(content: bytes, **change: object) -> None:
        (tmp_path / "image.index").write_bytes(content)
        (tmp_path / "image.index.json").write_text(json.dumps(told | {"bytes": len(content)} | change))
        open_indexes(tmp_path, vectors, "ScaNN", REMEDY)

    for damaged in (b"", b"?" * 2000, content[: len(content) // 2]):
        with pytest.raises(DataError, match=f"expected an index of ScaNN, got .*{REMEDY}"):
            opened(damaged)
    with pytest.raises(LineageError, match=f"expected an index of ScaNN .*, got 0.9; {REMEDY}"):
        opened(content, version="0.9")
    with tarfile.open(folder / "image.index") as archive:
        assert not [name for name in archive.getnames() if name.endswith("pkl")]  # a pickle would run code


def test_where_it_is_not_installed_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rag_diffusion.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"package scann.*rag-diffusion\[scann\]"):
        build_indexes(tmp_path, made_vectors(), config("ScaNN"))
    assert ROWS > 4096  # else the search would be exact, and need no package
