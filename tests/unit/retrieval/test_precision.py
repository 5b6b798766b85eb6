"""Searching vectors that are kept in fewer bits: one way for all, recall against float32, too few bits refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.arrays import Floats
from rag_diffusion.errors import ConfigError
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval import ann, stacked
from rag_diffusion.retrieval.ann import Exhaustive, inner_products
from rag_diffusion.retrieval.index_shards import BuildShard, build_shards, open_shards
from rag_diffusion.retrieval.indexes import build_indexes, open_indexes
from rag_diffusion.retrieval.recall import check_recall, with_earlier
from rag_diffusion.retrieval.stacked import StackedRows, float32_blocks
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from rag_diffusion.types import Precision
from tests.unit.retrieval.made_vectors import REMEDY, ROWS, WIDTH, config, made_vectors

LOSSY: tuple[Precision, ...] = ("float16", "int8")


@pytest.fixture(scope="module")
def exact() -> Vectors:
    return made_vectors()


@pytest.fixture(scope="module", params=LOSSY)
def kept(request: pytest.FixtureRequest, exact: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    """The same in fewer bits."""
    return exact.kept(tmp_path_factory.mktemp("kept") / VECTORS_FILE, request.param, remedy=REMEDY)


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.retrieval.indexes.RECALL_QUERIES", 200)
    monkeypatch.setattr("rag_diffusion.retrieval.operating_point._TIMED", 20)


def decoded(vectors: Vectors) -> Floats:
    return np.asarray(vectors.image)


@pytest.mark.parametrize("count", [1, 40])
def test_exhaustive_search_finds_what_it_finds_in_the_decoded_ones(
    kept: Vectors, exact: Vectors, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ann, "DECODED", 1000)  # six blocks
    queries = exact.text[:count]
    scores, rows = Exhaustive(kept.image).search(queries, 10)
    expected, expected_rows = Exhaustive(decoded(kept)).search(queries, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert (rows == expected_rows).mean() > 0.99
    np.testing.assert_allclose(Exhaustive(kept.image).search(queries[:1], 2000)[0][0, :10], expected[0], atol=1e-6)


def test_inner_products_are_those_of_the_decoded_ones(kept: Vectors, exact: Vectors) -> None:
    rows = np.array([[5, 17, -1], [ROWS - 1, 0, 5]])
    products = inner_products(exact.text[:2], kept.image, rows)
    np.testing.assert_allclose(products[:, :2], inner_products(exact.text[:2], decoded(kept), rows)[:, :2], atol=1e-6)
    assert (products.dtype, products[0, 2]) == (np.float32, -np.inf)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,PQ16x4fsr,RMapped", "IVF64,Flat"])
def test_recall_is_told_against_float32(factory: str, kept: Vectors, exact: Vectors, tmp_path: Path) -> None:
    report = build_indexes(tmp_path, kept, config(factory), exact)
    check_recall(report)
    assert report == json.loads((tmp_path / RECALL_FILE).read_text())
    assert (report["precision"], report["coarsest"], report["factory"]) == (kept.precision, kept.precision, factory)
    index = open_indexes(tmp_path, kept, factory, REMEDY)["text_to_image"]
    queries = exact.text[:: ROWS // 200][:200]
    least = np.sort(queries @ exact.image[:].T, axis=1)[:, -10:].min(axis=1, keepdims=True)
    found = np.take_along_axis(queries @ exact.image[:].T, index.search(queries, 10)[1], axis=1)
    assert report["recall_image"] == pytest.approx((found >= least - 1e-6).mean(), abs=0.01)
    assert report["recall_image"] <= report["precision_recall"]["image"] + 1e-9 < 1 + 1e-8


def test_a_search_in_fewer_bits_does_not_recall_everything(exact: Vectors, tmp_path: Path) -> None:
    """So that the tests above could fail: against themselves the vectors would recall all."""
    eight = exact.kept(tmp_path / VECTORS_FILE, "int8", remedy=REMEDY)
    assert 0.95 < build_indexes(tmp_path, eight, config("Flat"), exact)["recall_image"] < 1
    assert build_indexes(tmp_path, eight, config("Flat"))["recall_image"] == 1
    assert "precision" not in build_indexes(tmp_path, exact, config("Flat"), exact)


def test_too_few_bits_are_refused_before_anything_is_built(exact: Vectors, tmp_path: Path) -> None:
    eight = exact.kept(tmp_path / VECTORS_FILE, "int8", remedy=REMEDY)
    (tmp_path / "index").mkdir()
    report = build_indexes(tmp_path / "index", eight, config("IVF64,Flat", 0.9999), exact)
    assert [path.name for path in (tmp_path / "index").iterdir()] == [RECALL_FILE]
    with pytest.raises(ConfigError, match=r"index.precision: .* 0.9999 .*int8; set it to float32 or float16.*rebuild"):
        check_recall(report)


def test_what_fewer_bits_have_lost_stays_lost(exact: Vectors, tmp_path: Path) -> None:
    eight = exact.kept(tmp_path / VECTORS_FILE, "int8", remedy=REMEDY)
    before = build_indexes(tmp_path, eight, config("Flat"), exact)
    wide = Vectors(decoded(eight), np.asarray(eight.text))  # as a merge reads them
    fresh = build_indexes(tmp_path, wide, config("Flat"), wide)
    assert (fresh["recall_image"], with_earlier(fresh, [fresh])) == (1, fresh)
    merged = build_indexes(tmp_path, wide, config("Flat"), wide, earlier=[fresh, before])
    assert (merged["precision"], merged["coarsest"]) == ("float32", "int8")
    assert merged["recall_image"] == before["recall_image"]
    check_recall(merged)
    with pytest.raises(ConfigError, match="index.precision: .*int8"):
        check_recall(build_indexes(tmp_path, wide, config("Flat", 1.0), wide, earlier=[before]))


def test_shards_read_the_same_file(kept: Vectors, exact: Vectors, tmp_path: Path) -> None:
    exact.save(tmp_path / "exact")
    kept.save(tmp_path / "kept", kept.precision)
    work = BuildShard(
        vectors=tmp_path / "exact", rows=ROWS, folder=tmp_path, config=config("Flat"), kept=tmp_path / "kept"
    )
    report = build_shards(work, 3, None)
    check_recall(report)
    assert report["precision"] == kept.precision
    assert report["recall_text"] == report["precision_recall"]["text"]
    queries = exact.text[:20]
    found = open_shards(tmp_path, kept, "Flat", REMEDY)["text_to_image"].search(queries, 10)[0]
    np.testing.assert_allclose(found, Exhaustive(decoded(kept)).search(queries, 10)[0], atol=1e-6)


def test_tables_of_several_precisions_are_one(exact: Vectors, kept: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = StackedRows([exact.image, kept.image])
    assert rows.shape == (2 * ROWS, WIDTH)
    asked = np.array([ROWS + 3, 3, 2 * ROWS - 1])
    np.testing.assert_array_equal(rows[asked], np.concatenate([exact.image, decoded(kept)])[asked])
    monkeypatch.setattr(stacked, "DECODED", 1000)
    blocks = list(float32_blocks(rows))
    assert [len(block) for block in blocks] == [ROWS, *[1000] * 6]
    assert blocks[0] is exact.image  # as it lies
    np.testing.assert_array_equal(np.concatenate(blocks), np.asarray(rows))
