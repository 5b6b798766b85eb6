"""Building, tuning, keeping and opening indexes over vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_diffusion.arrays import Floats
from rag_diffusion.errors import ConfigError, DataError, LineageError
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval import ann, factories, recall
from rag_diffusion.retrieval.indexes import build_indexes, open_indexes
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from tests.unit.retrieval.made_vectors import REMEDY, ROWS, WIDTH, config, exact, made_vectors, unit


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    """Mapped from a file."""
    path = tmp_path_factory.mktemp("vectors") / VECTORS_FILE
    made_vectors().save(path)
    return Vectors.open(path, ROWS, remedy=REMEDY)


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.retrieval.indexes.RECALL_QUERIES", 200)
    monkeypatch.setattr("rag_diffusion.retrieval.operating_point._TIMED", 20)


@pytest.mark.parametrize(
    ("factory", "parameters"),
    [
        ("IVF64,Flat", {"nprobe"}),
        ("PQ16x4fs,RFlat", {"k_factor_rf"}),
        ("HNSW16", {"efSearch"}),
        ("IVF16,PQ16x4fsr,RMapped", {"nprobe", "candidates"}),
    ],
)
def test_any_factory_gets_the_operating_point_that_recalls_enough(
    factory: str, parameters: set[str], vectors: Vectors, tmp_path: Path
) -> None:
    report = build_indexes(tmp_path, vectors, config(factory))
    assert report["passed"]
    assert report["factory"] == factory
    assert all(set(point) == parameters for point in report["operating_points"].values())
    assert json.loads((tmp_path / RECALL_FILE).read_text()) == report
    queries = vectors.text[::30]
    for name, index in open_indexes(tmp_path, vectors, factory, REMEDY).items():
        base = np.asarray(vectors.image if name == "text_to_image" else vectors.text)
        found = index.search(queries, 10)[0]
        share = (found >= exact(base, queries, 10)[:, -1:] - 1e-5).mean()
        assert share >= 0.9, name  # at what faiss sets by itself: .5 of IVF64,Flat


def test_what_faiss_sets_by_itself_recalls_too_little(vectors: Vectors) -> None:
    """So that the test above could fail."""
    queries = vectors.text[::30]
    found = ann.VectorIndex.build(vectors.image, "IVF64,Flat").search(queries, 10)[0]
    assert (found >= exact(np.asarray(vectors.image), queries, 10)[:, -1:] - 1e-5).mean() < 0.9


def test_hits_are_scored_again_by_the_vectors_themselves(vectors: Vectors, tmp_path: Path) -> None:
    factory = "PQ16x4fs,RMapped"
    build_indexes(tmp_path, vectors, config(factory))
    index = open_indexes(tmp_path, vectors, factory, REMEDY)["text_to_image"]
    queries = vectors.text[:5]
    scores, rows = index.search(queries, 20)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors.image[rows]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    everything = index.search(queries, ROWS)  # as a filter that lets little through asks
    np.testing.assert_allclose(everything[0], exact(np.asarray(vectors.image), queries, ROWS), atol=1e-5)


def test_auto_is_exact_for_few_and_approximate_for_many(
    vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = build_indexes(tmp_path, vectors, config("auto"))
    assert report == build_indexes(tmp_path, vectors, config("Flat"))
    assert (report["factory"], [path.name for path in tmp_path.iterdir()]) == ("Flat", [RECALL_FILE])
    monkeypatch.setattr(factories, "AUTO_EXACT_BELOW", 100)
    assert build_indexes(tmp_path, vectors, config("auto"))["factory"] == "HNSW32"
    monkeypatch.setattr(factories, "HNSW_BELOW", 100)
    report = build_indexes(tmp_path, vectors, config("auto", 0.9))
    assert (report["factory"], report["passed"]) == ("IVF64,PQ16x4fsr,RMapped", True)
    sizes = [(tmp_path / name).stat().st_size / ROWS for name in ("image.index", "text.index")]
    assert max(sizes) < 4 * WIDTH / 3  # bytes a vector: codes of 8, ids, lists; not the vectors


def test_short_texts_are_found_as_well_as_captions(vectors: Vectors, tmp_path: Path) -> None:
    """They ask from elsewhere: an index that is tuned by captions alone finds too little of theirs."""
    factory, short = "IVF64,Flat", unit(np.random.default_rng(1), 200, WIDTH)
    captions = build_indexes(tmp_path, vectors, config(factory))
    assert set(captions) & {"short_queries", "recall_image_short", "recall_text_short"} == set()
    found = open_indexes(tmp_path, vectors, factory, REMEDY)["text_to_text"].search(short[::2], 10)[0]
    least = exact(np.asarray(vectors.text), short[::2], 10)[:, -1:] - 1e-5
    assert (found >= least).mean() < 0.94
    report = build_indexes(tmp_path, vectors, config(factory), short=lambda: short)
    assert (report["passed"], report["queries"], report["short_queries"]) == (True, "captions, short texts", 100)
    assert min(report[f"recall_{name}"] for name in ("image", "text", "image_short", "text_short")) >= 0.95
    found = open_indexes(tmp_path, vectors, factory, REMEDY)["text_to_text"].search(short[::2], 10)[0]
    assert (found >= least).mean() >= 0.95


def test_short_texts_are_not_encoded_for_an_exact_index(vectors: Vectors, tmp_path: Path) -> None:
    def encode() -> Floats:
        raise AssertionError("encoded")

    report = build_indexes(tmp_path, vectors, config("Flat"), short=encode)
    assert report == build_indexes(tmp_path, vectors, config("Flat"))


def test_auto_takes_the_next_where_one_recalls_too_little(
    vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_diffusion.retrieval.indexes.choices", lambda *_, **__: ["PQ2x4", "PQ4x4", "Flat"])
    report = build_indexes(tmp_path, vectors, config("auto"))
    assert (report["factory"], report["recall_image"]) == ("Flat", 1)


def test_no_operating_point_is_enough_for_a_coarse_index(vectors: Vectors, tmp_path: Path) -> None:
    report = build_indexes(tmp_path, vectors, config("IVF16,PQ2x4"))
    assert not report["passed"]
    assert report["operating_points"]["image"] == {"nprobe": 16}
    with pytest.raises(ConfigError, match=r"recall@10 of at least 0.95 .*'IVF16,PQ2x4'; .*`auto` chooses"):
        recall.check_recall(report)


class Watched:
    """Vectors that say how many of them were read at a time."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors, self.shape, self.most = vectors, vectors.shape, 0

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: Any) -> Floats:
        part = self._vectors[rows]
        self.most = max(self.most, len(part))
        return part


def test_memory_of_a_build_does_not_grow_with_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "_ADDED", 700)
    monkeypatch.setattr(ann, "_TRAINED_ON", 4 * WIDTH * 1000)
    for rows in (1500, ROWS):
        watched = Watched(made_vectors(rows).image)
        index = ann.VectorIndex.build(watched, "IVF16,PQ16x4fsr")  # type: ignore[arg-type]
        assert (len(index), watched.most) == (rows, 1000)


@pytest.fixture(scope="module")
def whole(vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build_indexes(folder, vectors, config("IVF16,Flat", 0.5))
    return folder


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"format": 2}, LineageError, "expected an index of format 1, got 2"),
        ({"rows": 99}, LineageError, f"index of {ROWS} vectors of width {WIDTH}, got one of 99 and {WIDTH}"),
        ({"bytes": 5}, DataError, "expected an index of 5 bytes, got"),
        ({"operating_point": {"nprobe": "many"}}, DataError, r"expected the description of an index.*nprobe"),
        ({"operating_point": {"efSearch": 9}}, DataError, r"operating point of \['nprobe'\], got {'efSearch': 9}"),
        ({"operating_point": 7}, DataError, "expected the description of an index"),
        ({"factory": None}, DataError, "expected the description of an index"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    change: dict[str, Any], error: type[Exception], said: str, whole: Path, vectors: Vectors, tmp_path: Path
) -> None:
    for name in ("image.index", "text.index"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
        told = json.loads((whole / f"{name}.json").read_text()) | change
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    with pytest.raises(error, match=f"{said}.*{REMEDY}"):
        open_indexes(tmp_path, vectors, "IVF16,Flat", REMEDY)


def test_a_damaged_index_is_refused(whole: Path, vectors: Vectors, tmp_path: Path) -> None:
    for name in ("image.index", "text.index"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(DataError, match=r"image.index.json: expected the description of an index.*again"):
        open_indexes(tmp_path, vectors, "IVF16,Flat", REMEDY)
    told = json.loads((whole / "image.index.json").read_text())
    (tmp_path / "image.index.json").write_text(json.dumps(told))
    content = (tmp_path / "image.index").read_bytes()
    (tmp_path / "image.index").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"expected an index of \d+ bytes, got \d+; run"):
        open_indexes(tmp_path, vectors, "IVF16,Flat", REMEDY)
    (tmp_path / "image.index").write_bytes(b"?" * len(content))
    with pytest.raises(DataError, match=r"expected a faiss index.*; run"):
        open_indexes(tmp_path, vectors, "IVF16,Flat", REMEDY)
    few = Vectors(vectors.image[:500], vectors.text[:500])
    with pytest.raises(LineageError, match=rf"an index of 500 vectors of width {WIDTH}, got one of {ROWS}"):
        open_indexes(whole, few, "IVF16,Flat", REMEDY)
