from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.readers.checked import to_pair
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.explain import explain
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.store.vectors import Vectors
from rag_diffusion.types import Pair
from tests.unit.knowledge.bases import SIZE, TinyEncoder, items, make_base, picture

QUERIES = ["a red fox", "blue apple number 7", "moon", "a purple hammer and a green boat", "nothing of the kind"]


WEIGHTS = {"bm25": 0.4, "tf_idf": 0.2, "text_to_text": 0.3, "text_to_image": 0.1}


def weighted(config_weights: dict[str, float]) -> dict[str, object]:
    from tests.unit.knowledge.bases import settings

    return {"weights": settings().retrieval.weights.model_copy(update=config_weights)}


def test_adding_replacing_and_removing_one_data_set_embeds_none_of_the_others(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    base = make_base(tmp_path, encoder)
    base.add("one", items(range(40)))
    base.add("two", items(range(40, 70)))
    assert (encoder.num_images, encoder.num_texts) == (70, 70)
    base.add("two", items(range(100, 125)), replace=True)
    assert encoder.num_images == 95
    base.remove("one")
    base.retriever()
    assert encoder.num_images == encoder.num_texts == 95
    assert [one.manifest.name for one in base.list()] == ["two"]
    assert base.info("two").num_pairs == 25


def test_pair_ids_are_the_data_sets_name_and_the_items(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("photos", items([3], prefix="summer/"), licence="CC0-1.0", attribution="me")
    pair = base.retriever().corpus.pair("photos/summer/00003.png")
    assert (pair.source, pair.licence, pair.attribution, pair.category) == ("photos", "CC0-1.0", "me", "boat")
    assert base.retriever().corpus.pixels(np.asarray([0])).shape == (1, SIZE, SIZE, 3)


@pytest.mark.parametrize("count", [60, 900])
def test_several_data_sets_give_the_hits_and_scores_of_one_corpus(tmp_path: Path, count: int) -> None:
    # the exact tie of scores is common here: 97 numbers, few things
    names = ("a", "a-b", "zoo")  # by name "a" comes before "a-b", by pair id after it
    base = make_base(tmp_path, retrieval=weighted(WEIGHTS))
    parts = {name: items(range(start, count, 3)) for start, name in enumerate(names)}
    for name in ("zoo", "a", "a-b"):
        base.add(name, reversed(parts[name]))
    one = one_corpus(tmp_path / "whole", parts)
    many = base.retriever()
    assert many.corpus.ids(np.arange(len(one.corpus))) == one.corpus.table["pair_id"].tolist()
    np.testing.assert_allclose(many.vectors.image[np.arange(count)], one.vectors.image, atol=1e-6)
    for options in ({}, {"exclude": [["a/00000.png"]] * len(QUERIES), "without_duplicates": True}):
        for depth in (3, 10, 300):
            for left, right in zip(
                many.search(Query(QUERIES, top_k=depth, **options)).hits,
                one.search(Query(QUERIES, top_k=depth, **options)).hits,
                strict=True,
            ):
                assert left.pair_ids == right.pair_ids
                np.testing.assert_allclose(left.scores, right.scores, atol=1e-6)
                assert left.parts.keys() == right.parts.keys() == WEIGHTS.keys()
    asked = [explain(found, QUERIES[0], found.search(Query(QUERIES[:1], top_k=5)).hits[0]) for found in (many, one)]
    assert asked[0].words == pytest.approx(asked[1].words)
    assert [hit.caption for hit in asked[0].hits] == [hit.caption for hit in asked[1].hits]
    shown = Corpus.pixels(one.corpus, [5])
    left, right = (found.search(Query(QUERIES[:1], top_k=9, exclude_images=shown)).hits[0] for found in (many, one))
    assert left.pair_ids == right.pair_ids


def one_corpus(root: Path, parts: dict[str, list[Item]]) -> Retriever:
    """The same pairs as one corpus, the retriever put together by hand."""
    pairs = [
        to_pair(item, data_set=name, size=SIZE, licence="unspecified", attribution="unspecified")
        for name, own in parts.items()
        for item in own
    ]
    assert all(isinstance(pair, Pair) for pair in pairs)
    write_corpus(root, pairs, image_size=SIZE, facts={})
    corpus, encoder = Corpus.open(root), TinyEncoder()
    captions = corpus.table["caption"].tolist()
    vectors = Vectors(encoder.images(corpus.pixels()), encoder.texts(captions))
    return Retriever(
        corpus,
        vectors,
        {"bm25": LexicalIndex.build(captions), "tf_idf": LexicalIndex.build(captions, "tf_idf")},
        {
            "text_to_text": VectorIndex.build(vectors.text, "Flat"),
            "text_to_image": VectorIndex.build(vectors.image, "Flat"),
        },
        weights=Method(weights=WEIGHTS),
        embed=encoder.texts,
        embed_images=encoder.images,
    )


def test_filters_let_through_sources_classes_licences_and_splits(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("one", items(range(60)), licence="CC0-1.0")
    base.add("two", items(range(60, 120)), licence="MIT")
    wanted = {
        Filter(sources=("two",)): lambda pair: pair.source == "two",
        Filter(classes=("fox", "drum")): lambda pair: pair.category in ("fox", "drum"),
        Filter(licences=("MIT",), splits=("test",)): lambda pair: (pair.licence, pair.split) == ("MIT", "test"),
        Filter(sources=("three",)): lambda _: False,
    }
    pairs = base.retriever().corpus
    everything = [pairs.pair(name) for name in pairs.ids(np.arange(len(pairs)))]
    for where, passes in wanted.items():
        hits = base.search(Query(["a fox"], top_k=500, where=where)).hits[0]
        assert set(hits.pair_ids) == {pair.pair_id for pair in everything if passes(pair)}
    assert base.retriever().corpus.mask(Filter()) is None
    first = base.search(Query(["a fox"], top_k=1)).hits[0].pair_ids
    assert first[0] not in base.search(Query(["a fox"], top_k=120, exclude=[first])).hits[0].pair_ids


def test_removal_leaves_nothing_behind(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("kept", items(range(5)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    base.add("gone", items(range(5, 20)))
    cache = base.catalogue.folders.cache("gone")
    cache.mkdir(parents=True)
    (cache / "image.png").write_bytes(picture(1))
    base.catalogue.folders.building("gone").mkdir(parents=True, exist_ok=True)
    (base.catalogue.folders.building("gone") / "00000.arrow").write_bytes(b"pairs")
    base.retriever()
    base.remove("gone")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before
    assert all("gone" not in path.name for path in tmp_path.rglob("*") if path.is_dir())
    assert not any("gone/" in name for name in base.search(Query(["a fox"], top_k=50)).hits[0].pair_ids)
    with pytest.raises(ConfigError, match="expected one of kept, got 'gone'"):
        base.remove("gone")


def test_a_name_that_comes_twice_is_rejected_and_counted(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    twice = [*items(range(5)), replace(items([2])[0], caption="another"), Rejection(what="x", reason="bad thing: x")]
    manifest = base.add("photos", twice)
    assert (manifest.num_pairs, manifest.num_rejected) == (5, 2)
    assert manifest.rejected_by_reason == {"bad thing": 1, "name taken": 1}
    assert base.retriever().corpus.pair("photos/00002.png").caption != "another"
    lines = (base.catalogue.folders.generation("photos", 1) / "rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["what"] for line in lines} == {"x", "photos/00002.png"}


def test_vectors_are_a_safetensors_file_and_shards_are_a_corpus(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    manifest = base.add("photos", items(range(70)))
    folder = base.catalogue.folders.generation("photos", 1)
    arrays = load_file(folder / "vectors.safetensors")
    retriever = base.retriever()
    np.testing.assert_array_equal(arrays["image"], retriever.vectors.image[:])
    np.testing.assert_array_equal(arrays["text"], retriever.vectors.text[:])
    manifest.write(folder / "manifest.json")
    corpus = Corpus.open(folder)
    assert corpus.table["pair_id"].tolist() == retriever.corpus.ids(np.arange(70))
    np.testing.assert_array_equal(corpus.pixels(), retriever.corpus.pixels(np.arange(70)))


def test_uploaded_pairs_are_found_by_the_next_query_and_embed_themselves_alone(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    base = make_base(tmp_path, encoder)
    base.insert("mine", items(range(50)))
    again = make_base(tmp_path, encoder)  # of another process
    assert len(again.retriever().corpus) == 50
    seen = encoder.num_images
    manifest, rejected = base.insert(
        "mine", [Item(name="new.png", image=picture(999), caption="a zebra"), Item(name="bad", image=b"", caption="x")]
    )
    assert encoder.num_images == seen + 1
    assert (manifest.num_pairs, len(rejected)) == (51, 1)
    assert again.search(Query(["zebra"], top_k=1)).hits[0].pair_ids == ("mine/new.png",)
    assert base.insert("mine", [Item(name="bad", image=b"", caption="x")])[0].num_pairs == 51
    manifest, rejected = base.insert("mine", [*items([3]), Item(name="two.png", image=picture(7), caption="a yak")])
    assert [one.what for one in rejected] == ["00003.png"]
    assert manifest.rejected_by_reason == {"empty file": 1, "name taken": 1}  # of uploads that left something
    assert len(list(base.list())) == 1
    base.add("read", items(range(3)))
    with pytest.raises(ConfigError, match="expected a data set of uploaded pairs, but 'read'"):
        base.insert("read", items([9]))


def test_an_upload_of_rejections_alone_is_told_and_changes_nothing(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.insert("mine", items(range(3)))
    manifest, rejected = base.insert("mine", [Item(name="bad.png", image=b"no image", caption="a fox")])
    assert len(rejected) == 1
    assert (manifest.num_pairs, manifest.num_rejected) == (3, 0)
    assert base.info("mine").hash == manifest.hash


def test_a_retriever_keeps_its_state_while_data_sets_change(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("photos", items(range(80)))
    before = base.retriever()
    assert base.retriever() is before
    base.add("photos", items(range(200, 240)), replace=True)
    assert len(before.corpus) == 80
    assert before.search(Query(["a red fox"], top_k=3)).hits[0].pair_ids
    after = base.retriever()
    assert after is not before
    assert len(after.corpus) == 40
    assert before.corpus.pair("photos/00001.png").image == picture(1)  # to the end of a drawing that began with it
    assert not base.catalogue.folders.generation("photos", 1).exists()


def test_an_unchanged_data_set_is_not_opened_again(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("one", items(range(10)))
    base.add("two", items(range(10, 20)))
    first = base.retriever().corpus.parts
    base.add("two", items(range(30, 40)), replace=True)
    second = base.retriever().corpus.parts
    assert first[0] is second[0]
    assert first[1] is not second[1]


@pytest.mark.parametrize("name", ["", "a/b", "../x", "corpus", "iconify", "Photos", ".hidden", "x" * 64])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name"):
        make_base(tmp_path).add(name, items(range(2)))


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("photos", items(range(5)))
    with pytest.raises(ConfigError, match="there is a data set 'photos' of 5 pairs; give --replace"):
        base.add("photos", items(range(6)))
    assert base.info("photos").num_pairs == 5


def test_nothing_but_rejections_is_no_data_set(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    with pytest.raises(DataError, match="got rejections alone, the first: x: empty image"):
        base.add("photos", [Rejection(what="x", reason="empty image: 0 bytes")])
    with pytest.raises(DataError, match="nothing at all"):
        base.add("photos", [])
    assert base.catalogue.names() == []
    with pytest.raises(DataError, match="expected at least one data set to search, found none"):
        base.retriever()


def test_captions_without_words_are_searched_by_their_vectors(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("signs", [replace(item, caption="!!!") for item in items(range(4))])
    assert len(base.search(Query(["a fox"], top_k=4)).hits[0].pair_ids) == 4
    base.add("words", items(range(4)))
    assert len(base.search(Query(["a fox"], top_k=8)).hits[0].pair_ids) == 8


def test_a_remote_data_set_is_listed_and_left_out_of_local_search(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("photos", items(range(5)))
    base.writer.add_remote("museum", "https://example.org")
    assert base.info("museum").remote
    assert len(base.retriever().corpus) == 5
    base.remove("museum")
    assert base.catalogue.names() == ["photos"]


def test_hits_become_neighbors_of_a_drawing(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("mine", items(range(40)), licence="CC0-1.0", attribution="me")
    hits = base.search(Query(["a red fox"], top_k=3)).hits[0]
    neighbors = neighbors_from(base.retriever().corpus, hits.pair_ids, hits.scores)
    assert [one.pair_id for one in neighbors] == list(hits.pair_ids)
    assert {(one.licence, one.attribution, one.source) for one in neighbors} == {("CC0-1.0", "me", "mine")}
    assert neighbors[0].pixels(SIZE).shape == (SIZE, SIZE, 3)


def test_a_manifest_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path)
    base.add("mine", items(range(10)))
    base.search(Query(["a red fox"], top_k=2))
    read, real = list[Path](), Manifest.read
    monkeypatch.setattr(Manifest, "read", lambda path: read.append(path) or real(path))
    base.search(Query(["a blue moon"], top_k=2))
    assert read == []
    make_base(tmp_path).add("mine", items(range(20)), replace=True)
    read.clear()
    assert len(base.retriever().corpus) == 20
    base.search(Query(["a blue moon"], top_k=2))
    assert len(read) == 1
