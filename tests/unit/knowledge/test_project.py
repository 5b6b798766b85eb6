"""The pipeline's own corpus as the data set `corpus`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion import layout
from rag_diffusion.errors import ConfigError, DataError, LineageError, ModelError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.lexical import LexicalIndex, RankBm25
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.stacked import StackedRows
from rag_diffusion.stages import index
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.stamps import write_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from rag_diffusion.tracking import NullTracker
from tests.unit.knowledge.bases import TinyEncoder, items, make_base, settings, write_params

QUERIES = ["red square, noto style", "a blue ring", "a green moon and a red cross"]


@pytest.fixture(scope="module")
def project(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 420 pairs, embedded and indexed."""
    root = tmp_path_factory.mktemp("pipeline")
    shutil.copytree(tiny_corpus.path, root / layout.CORPUS)
    encoder = TinyEncoder()
    vectors = Vectors(encoder.images(tiny_corpus.pixels()), encoder.texts(tiny_corpus.table["caption"].tolist()))
    (root / layout.VECTORS).mkdir(parents=True)
    vectors.save(root / layout.VECTORS / VECTORS_FILE)
    write_stamp(root / layout.VECTORS, {"corpus_hash": tiny_corpus.hash, "encoder_hash": encoder.hash})
    index.run(StageContext(config=settings(), root=root, tracker=NullTracker()))
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    shutil.copytree(project / "data", tmp_path / "data")
    return tmp_path


def by_hand(root: Path) -> Retriever:
    """Over the very same artifacts, put together by hand."""
    corpus, encoder = Corpus.open(root / layout.CORPUS), TinyEncoder()
    vectors = Vectors.open(root / layout.VECTORS / VECTORS_FILE, len(corpus), remedy="")
    return Retriever(
        corpus,
        vectors,
        LexicalIndex.build(corpus.table["caption"]),
        {
            "text_to_text": VectorIndex.build(vectors.text, "Flat"),
            "text_to_image": VectorIndex.build(vectors.image, "Flat"),
        },
        weights=Method.from_config(settings().retrieval),
        embed=encoder.texts,
        embed_images=encoder.images,
    )


def test_the_corpus_alone_gives_the_pipelines_own_hits_bit_for_bit(project: Path) -> None:
    base = make_base(project)
    ours, theirs = base.retriever(), by_hand(project)
    assert ours.search(Query(QUERIES, top_k=20)).hits == theirs.search(Query(QUERIES, top_k=20)).hits
    assert ours.corpus.hash == theirs.corpus.hash
    assert base.encoder.num_images == 0
    pair = theirs.corpus.pair("tiny/noto/red-square")
    assert ours.corpus.pair(pair.pair_id) == pair


@pytest.mark.parametrize("shards", [1, 3])
def test_the_pipelines_vectors_are_searched_in_fewer_bits_by_the_same_setting(copy: Path, shards: int) -> None:
    config = settings(index={"precision": "float16", "shards": shards})
    index.run(StageContext(config=config, root=copy, tracker=NullTracker()))
    exact = Vectors.open(copy / layout.VECTORS / VECTORS_FILE, 420, remedy="")
    base = make_base(copy)
    vectors = base.retriever().vectors.image
    assert isinstance(vectors, StackedRows)
    assert [table.shape for table in vectors.tables] == [exact.image.shape]
    rows = np.arange(420)
    np.testing.assert_array_equal(vectors[rows], exact.image[rows].astype(np.float16).astype(np.float32))
    told = base.info("corpus")
    assert (told.precisions, exact.precision) == (("float16",), "float32")
    assert told.recall["recall_image"] > 0.99
    assert len(base.search(Query(QUERIES, top_k=420)).hits[0].pair_ids) == 420
    (copy / layout.INDEX / VECTORS_FILE).unlink()
    with pytest.raises(DataError, match="expected image and text vectors.*run `dvc repro index`"):
        make_base(copy).retriever()


def test_too_few_bits_stop_the_stage(copy: Path) -> None:
    config = settings(index={"precision": "int8", "min_recall": 1.0})
    with pytest.raises(ConfigError, match=r"index.precision: expected recall@10 of at least 1.0"):
        index.run(StageContext(config=config, root=copy, tracker=NullTracker()))
    assert make_base(copy).info("corpus").precisions == ("float32",)


def test_corpus_and_data_sets_are_searched_together(copy: Path) -> None:
    base = make_base(copy)
    base.add("mine", items(range(50)))
    assert list(base.catalogue.names()) == ["corpus", "mine"]
    assert len(base.retriever().corpus) == 470
    found = {hit.split("/")[0] for hit in base.search(Query(["a red fox"], top_k=470)).hits[0].pair_ids}
    assert found == {"tiny", "mine"}
    for source, prefix in (("corpus", "tiny/"), ("tiny/noto", "tiny/noto/"), ("mine", "mine/"), ("tiny", "tiny/")):
        hits = base.search(Query(["a red square"], top_k=470, where=Filter(sources=(source,)))).hits[0].pair_ids
        assert hits
        assert all(hit.startswith(prefix) for hit in hits)
    shown = base.retriever().corpus.pixels(np.asarray([0, 469]))
    assert shown.shape == (2, 32, 32, 3)
    assert len(base.retriever(["mine"]).corpus) == 50


def test_the_corpus_is_read_only(project: Path) -> None:
    base = make_base(project)
    for change in (
        lambda: base.remove("corpus"),
        lambda: base.add("corpus", items([1]), replace=True),
        lambda: base.writer.rebuild("corpus"),
        lambda: base.insert("corpus", items([1])),
        lambda: base.writer.merger.merge("corpus"),
    ):
        with pytest.raises(ConfigError, match="dvc repro"):
            change()


def test_a_corpus_that_is_not_indexed_yet_is_listed_with_what_to_run(copy: Path) -> None:
    shutil.rmtree(copy / layout.INDEX)
    base = make_base(copy)
    base.add("mine", items(range(5)))
    assert "run `dvc repro index`" in base.list()[0].trouble
    assert len(base.retriever().corpus) == 5
    with pytest.raises(DataError, match="run the stage `index`"):
        base.retriever(["corpus", "mine"])


def test_an_index_of_another_encoder_or_corpus_is_refused(copy: Path) -> None:
    with pytest.raises(LineageError, match="those of 'corpus' were made by encoder tiny.*run `dvc repro index`"):
        make_base(copy, TinyEncoder("other")).retriever()
    write_stamp(copy / layout.INDEX, {"corpus_hash": "another", "encoder_hash": TinyEncoder().hash, "factory": "Flat"})
    with pytest.raises(LineageError, match="expected an artifact of corpus"):
        make_base(copy).retriever()


def test_a_project_without_encoder_says_what_to_run(tmp_path: Path) -> None:
    write_params(tmp_path)
    base = KnowledgeBase.open(tmp_path)
    with pytest.raises(
        ModelError, match="expected the dual encoder that makes vectors, found none; run `dvc repro align`"
    ):
        base.add("mine", items(range(5)))
    assert list(base.catalogue.names()) == []


def test_a_text_names_a_style_of_the_corpus_by_its_words(copy: Path) -> None:
    path = copy / layout.CORPUS / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"style_words": {"noto-v1": "classic Noto", "noto": "Noto"}}))
    retriever = make_base(copy).retriever()
    assert retriever.corpus.style_named_in("a red square as classic noto has it") == "noto-v1"
    assert retriever.corpus.style_named_in("a red square in openmoji style") == "openmoji"


def test_rank_bm25_by_choice_gives_the_same_hits_over_all_data_sets(copy: Path) -> None:
    make_base(copy).add("mine", items(range(50)))
    ours, theirs = (make_base(copy, retrieval={"lexical": name}) for name in ("sparse", "rank_bm25"))
    assert isinstance(theirs.retriever().lexical["bm25"], RankBm25)
    assert ours.search(Query(QUERIES)).hits == theirs.search(Query(QUERIES)).hits
