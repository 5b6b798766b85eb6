"""Pairs of several data sets are the pairs of one that holds them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import LineageError
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.pairs import Pairs, in_order_of_ids
from rag_diffusion.types import Pair
from tests.tiny import tiny_pairs

SIZE = 16


def written(path: Path, pairs: list[Pair]) -> Corpus:
    write_corpus(path, pairs, image_size=SIZE, facts={})
    return Corpus.open(path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return written(tmp_path_factory.mktemp("one") / "corpus", tiny_pairs(SIZE))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder, pairs = tmp_path_factory.mktemp("several"), tiny_pairs(SIZE)
    late = [pair for pair in pairs if pair.style >= "noto"]
    corpora = [written(folder / "late", late), written(folder / "early", [pair for pair in pairs if pair not in late])]
    return Pairs(in_order_of_ids(corpus.parts[0] for corpus in corpora), SIZE)


def test_several_data_sets_read_as_one(one: Corpus, several: Pairs) -> None:
    rows = np.array([0, 7, 419, 200, 7])
    assert len(several.parts) == 2
    assert len(several) == len(one)
    assert several.ids(rows) == one.ids(rows)
    assert several.cells("title", rows) == one.cells("title", rows)
    assert several.column("style").tolist() == one.column("style").tolist() == one.table["style"].tolist()
    assert several.cells("style", rows) == one.cells("style", rows)
    assert several.rows(one.ids(rows)).tolist() == rows.tolist()
    for column in ("family", "source"):
        assert several.numbered(column).tolist() == one.numbered(column).tolist()
    np.testing.assert_array_equal(several.pixels(rows), one.pixels(rows))
    assert several.pair("tiny/noto/red-circle") == one.pair("tiny/noto/red-circle")


@pytest.mark.parametrize(
    "where", [Filter(sources=("tiny/noto",)), Filter(classes=("circle",), splits=("test",)), Filter(licences=("MIT",))]
)
def test_a_filter_passes_the_same_rows(one: Corpus, several: Pairs, where: Filter) -> None:
    mask = one.mask(where)
    assert mask is not None
    np.testing.assert_array_equal(several.mask(where), mask)
    assert mask.sum() == sum(where.mask("", part.columns.table).sum() for part in several.parts)


def test_a_pair_that_is_not_there_names_the_data_sets(one: Corpus, several: Pairs) -> None:
    assert several.find("tiny/noto/nobody") is one.find("tiny/noto/nobody") is None
    for pairs in (one, several):
        with pytest.raises(LineageError, match=r"expected a pair 'nobody', found none in the data sets corpus \("):
            pairs.rows(["nobody"])


def test_data_sets_whose_ids_overlap_are_refused(one: Corpus) -> None:
    part = one.parts[0]
    with pytest.raises(LineageError, match="pair ids begin differently, got 'corpus' and 'other'"):
        in_order_of_ids([part, replace(part, manifest=replace(part.manifest, name="other"))])


def test_a_corpus_of_pixels_reads_as_the_one_that_they_are_of(one: Corpus) -> None:
    held = Corpus.in_memory(one.path, one.parts[0].columns.table, one.pixels(), one.hash)
    assert held.hash == one.hash
    assert held.pair("tiny/noto/red-circle") == one.pair("tiny/noto/red-circle")
    np.testing.assert_array_equal(held.pixels([3, 1]), one.pixels([3, 1]))
