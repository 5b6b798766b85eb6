"""Pairs of remotes among those that lie here: found, scored, filtered and excluded as if they lay here too."""

from __future__ import annotations

import gc
import json
import socket
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.errors import ConfigError, DataError, LineageError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.remote.remote_source import RemoteSource
from rag_diffusion.readers.images import decode, encode_png
from rag_diffusion.retrieval.query import Query
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.terminal.kb_search import search_text
from tests.unit.guarded_http.wild import says, says_json, wild
from tests.unit.knowledge.bases import SIZE, items, make_base, picture
from tests.unit.serving.served import Client, served

HERE, THERE = range(10), range(10, 22)  # fewer there than a remote is asked for, so that it sends all of them
QUERIES = ["a red fox", "a blue moon number 14"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    base = make_base(tmp_path_factory.mktemp("there"))
    base.add("photos", items(THERE, licence="CC0-1.0"))
    with served(base) as client:
        yield client


@pytest.fixture
def base(tmp_path: Path, other: Client) -> KnowledgeBase:
    made = make_base(tmp_path)
    made.add("mine", items(HERE, licence="MIT"))
    made.writer.add_remote("far", other.url, allow_hosts=["127.0.0.1"])
    return made


def add(base: KnowledgeBase, name: str, url: str) -> None:
    base.writer.add_remote(name, url, allow_hosts=["127.0.0.1"], licence="theirs", replace=True)


def dead_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_remote_pairs_are_scored_as_if_they_lay_here(base: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    here = make_base(tmp_path / "all")
    here.add("mine", items(HERE, licence="MIT"))
    here.add("far", items(THERE, licence="CC0-1.0"))
    wanted = here.search(Query(QUERIES, top_k=22)).hits

    results = base.search(Query(QUERIES, top_k=22))
    assert results.trouble == ()
    assert results.remotes == ("far",)
    for retriever, hits, same in zip(results.retrievers, results.hits, wanted, strict=True):
        assert retriever is not None
        pairs, theirs = retriever.corpus, here.retriever().corpus
        by_caption = dict(zip(pairs.cells("caption", pairs.rows(hits.pair_ids)), hits.scores, strict=True))
        expected = dict(zip(theirs.cells("caption", theirs.rows(same.pair_ids)), same.scores, strict=True))
        assert by_caption == pytest.approx(expected, abs=1e-5)
        assert hits.scores == tuple(sorted(hits.scores, reverse=True))
        remote = [name for name in hits.pair_ids if name.startswith("far/")]
        assert len(remote) == len(THERE)
        pair = pairs.pair(remote[0])
        assert pair.licence == "CC0-1.0"
        assert pair.source == "far"


def test_what_a_query_finds_does_not_depend_on_the_others(base: KnowledgeBase) -> None:
    for top_k in (3, 5):
        together = base.search(Query(QUERIES, top_k=top_k)).hits
        alone = [base.search(Query([query], top_k=top_k)).hits[0] for query in QUERIES]
        assert together == alone


def test_remote_pairs_are_filtered_and_excluded(base: KnowledgeBase) -> None:
    results = base.search(Query(QUERIES[:1], top_k=5))
    for where in (Filter(sources=("far",)), Filter(licences=("CC0-1.0",))):
        hits = results.search(Query(QUERIES[:1], top_k=5, where=where)).hits[0]
        assert len(hits.pair_ids) == 5
        assert all(name.startswith("far/") for name in hits.pair_ids)
    assert all(
        name.startswith("mine/")
        for name in results.search(Query(QUERIES[:1], top_k=5, where=Filter(sources=("mine",)))).hits[0].pair_ids
    )
    best = results.search(Query(QUERIES[:1], top_k=1, where=Filter(sources=("far",)))).hits[0].pair_ids[0]
    never_sent = "far/12345"
    rest = results.search(Query(QUERIES[:1], top_k=22, exclude=[[best, never_sent]])).hits[0].pair_ids
    assert best not in rest
    assert len(rest) == 21
    with pytest.raises(LineageError, match="expected a pair 'mine/none'"):
        results.search(Query(QUERIES[:1], top_k=2, exclude=[["mine/none"]]))


def test_a_dead_remote_is_told_and_the_rest_is_found(base: KnowledgeBase) -> None:
    add(base, "far", dead_url())
    results = base.search(Query(QUERIES, top_k=3))
    assert results.hits == base.search(Query(QUERIES, top_k=3, sets=["mine"])).hits
    assert len(results.trouble) == 1
    assert results.trouble[0].startswith("remote far: 2 of 2 queries failed")


def test_everything_said_per_query_is_said_to_its_own_query(base: KnowledgeBase) -> None:
    results = base.search(Query(QUERIES, top_k=4))
    assert results.retrievers[0] is not results.retrievers[1]
    plain = results.hits
    assert results.search(Query(QUERIES, top_k=4, vectors=base.encoder.texts(QUERIES))).hits == plain
    pixels = []
    for retriever, hits in zip(results.retrievers, plain, strict=True):
        assert retriever is not None
        pixels.append(retriever.corpus.pixels(retriever.corpus.rows(hits.pair_ids[:1]))[0])
    for found, hits in zip(
        results.search(Query(QUERIES, top_k=4, exclude_images=np.stack(pixels))).hits, plain, strict=True
    ):
        assert hits.pair_ids[0] not in found.pair_ids
        assert found.pair_ids[:3] == hits.pair_ids[1:]


def test_a_query_may_name_its_data_sets_a_remote_one_among_them(base: KnowledgeBase) -> None:
    for sets in (["far"], ["mine"], ["far", "mine"]):
        results = base.search(Query(QUERIES, top_k=40, sets=sets))
        assert results.remotes == (("far",) if "far" in sets else ())
        for hits in results.hits:
            assert {name.split("/")[0] for name in hits.pair_ids} == set(sets)
    with pytest.raises(ConfigError, match="expected one of far, mine, got 'none'"):
        base.search(Query(QUERIES, sets=["none"]))


def test_one_searches_again_in_what_was_sent_and_no_remote_is_asked_twice(base: KnowledgeBase) -> None:
    results = base.search(Query(QUERIES, top_k=4))
    add(base, "far", dead_url())
    again = results.search(Query([text for text in QUERIES for _ in range(2)], top_k=4))
    assert again.hits == [hits for hits in results.hits for _ in range(2)]
    assert again.trouble == ()
    with pytest.raises(ValueError, match=r"expected some of the first query, as 'a red fox', got \['a drum'\]"):
        results.search(Query(["a drum"]))


def test_near_duplicates_of_other_data_sets_do_not_come(base: KnowledgeBase) -> None:
    base.add("again", [replace(one, name=f"same-{one.name}", image=nearly(one.image)) for one in items(HERE)])
    results = base.search(Query(["a red fox"], top_k=32))
    kept, left = (
        set(
            results.search(Query(["a red fox"], top_k=32, exclude=[["mine/00000.png"]], without_duplicates=without))
            .hits[0]
            .pair_ids
        )
        for without in (False, True)
    )
    assert len(kept) == 31
    assert kept - left == {"again/same-00000.png"}


def nearly(image: bytes) -> bytes:
    """The same picture with another corner."""
    pixels = np.asarray(decode(image, "it")).copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    return encode_png(Image.fromarray(pixels))


def test_a_remote_is_asked_for_each_thing_of_a_prompt(base: KnowledgeBase) -> None:
    with wild() as server:
        for key in (0, 1):
            server.paths[f"/{key}.png"] = says(picture(key))
        server.paths["/knn-service"] = says_json(
            [{"id": 0, "similarity": 1.0, "caption": "a thing", "url": f"{server.url}/0.png"}]
        )
        add(base, "wild", server.url)
        results = base.search(Query(["a red fox and the moon", "a drum"], top_k=2))
        asked = sorted(json.loads(body)["text"] for _, path, body in server.asked if path == "/knn-service")
    assert asked == ["a drum", "a red fox", "a red fox and the moon", "the moon"]
    for retriever in results.retrievers:
        assert retriever is not None
        assert retriever.corpus.ids(np.arange(len(retriever.corpus))).count("wild/0") == 1


def test_filters_reach_a_remote_of_ours(tmp_path: Path) -> None:
    there = make_base(tmp_path / "there")
    there.add("many", [*items(range(150), licence="MIT"), *items(range(1000, 1003), prefix="rare-", licence="CC0-1.0")])
    here = make_base(tmp_path)
    rare = Filter(licences=("CC0-1.0",))
    with served(there) as client:
        add(here, "far", client.url)
        hits = here.search(Query(["a red fox"], top_k=3, where=rare)).hits[0]
        assert len(hits.pair_ids) == 3
        other = here.search(Query(["a red fox"], top_k=3, where=Filter(sources=("elsewhere",))))
        assert other.remotes == ()
        none = here.search(Query(["a red fox"], top_k=3, where=Filter(licences=("nobody's",))))
        assert none.hits[0].pair_ids == ()


def test_a_remote_that_does_not_filter_is_told_of(base: KnowledgeBase) -> None:
    with wild() as server:
        server.paths["/0.png"] = says(picture(0))
        server.paths["/knn-service"] = says_json(
            [{"id": 0, "similarity": 1.0, "caption": "a fox", "url": f"{server.url}/0.png", "split": "test"}]
        )
        add(base, "wild", server.url)
        results = base.search(Query(["a fox"], top_k=3, where=Filter(splits=("train",), sources=("wild",))))
    assert results.trouble == ("remote wild: none of 1 results passes the filters",)
    hits = results.search(Query(["a fox"], top_k=3, where=Filter(splits=("test",), sources=("wild",)))).hits[0]
    assert hits.pair_ids == ("wild/0",)


def test_what_was_found_can_be_read_after_its_data_set_was_replaced(base: KnowledgeBase) -> None:
    results = base.search(Query(QUERIES, top_k=3))
    local = base.retriever()
    base.add("mine", items(range(50, 60)), replace=True)
    for retriever in (*results.retrievers, local):
        assert retriever is not None
        assert len(retriever.corpus.pixels(np.arange(len(retriever.corpus)))) == len(retriever.corpus)
    hits = base.search(Query(QUERIES, top_k=22)).hits[0]
    assert "mine/00050.png" in hits.pair_ids


def test_images_of_a_remote_that_is_removed_meanwhile_are_not_kept(base: KnowledgeBase) -> None:
    source = RemoteSource.open(base.catalogue.folders, base.info("far"))
    base.remove("far")
    found = source.find(["a fox"], top_k=3)  # by a query that began before
    assert found.items
    folder = base.catalogue.folders.cache("far")
    assert not folder.exists()
    folder.mkdir(parents=True)  # what a killed one left
    (folder / "0123").write_bytes(b"left")
    base.catalogue.folders.finish()
    assert not folder.exists()


def test_a_data_set_that_becomes_a_remote_is_there_until_then(
    base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Manifest, "write", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            add(base, "mine", dead_url())
    assert base.info("mine").num_pairs == len(HERE)
    base.catalogue.check("mine")
    add(base, "mine", dead_url())
    assert base.info("mine").remote
    assert [path.name for path in base.catalogue.folders.folder("mine").iterdir()] == ["manifest.json"]


def test_images_are_small_as_soon_as_they_are_decoded(base: KnowledgeBase) -> None:
    with wild() as server:
        server.paths["/0.png"] = says(picture(0, 2000))
        server.paths["/knn-service"] = says_json(
            [{"id": 0, "similarity": 1.0, "caption": "a fox", "url": f"{server.url}/0.png"}]
        )
        add(base, "wild", server.url)
        found = RemoteSource.open(base.catalogue.folders, base.info("wild"), size=SIZE).find(["a fox"], top_k=1)
    assert decode(found.items[0].item.image, "it").size == (SIZE, SIZE)


def test_a_cache_that_cannot_be_written_stops_nothing(base: KnowledgeBase) -> None:
    (base.catalogue.folders.base / ".cache").write_text("a file in the way")
    results = base.search(Query(QUERIES, top_k=2))
    assert results.trouble == ()
    assert all(len(hits.pair_ids) == 2 for hits in results.hits)


def test_lexical_indexes_of_one_query_are_in_memory_at_a_time(base: KnowledgeBase) -> None:
    results = base.search(Query(QUERIES, top_k=3))
    first, second = (retriever.lexical["bm25"] for retriever in results.retrievers if retriever is not None)
    made = weakref.ref(first._load()["bm25"])
    assert made() is not None
    second.explain("fox")
    gc.collect()
    assert made() is None
    assert first.explain("fox") != {}


def test_remotes_alone_are_a_knowledge_base(tmp_path: Path, other: Client) -> None:
    base = make_base(tmp_path)
    with pytest.raises(DataError, match="expected at least one data set to search"):
        base.search(Query(QUERIES, top_k=2))
    add(base, "far", other.url)
    hits = base.search(Query(QUERIES, top_k=2)).hits
    assert [len(one.pair_ids) for one in hits] == [2, 2]
    add(base, "far", dead_url())
    results = base.search(Query(QUERIES, top_k=2))
    assert results.retrievers == [None, None]
    assert results.trouble
    assert [one.pair_ids for one in results.hits] == [(), ()]


def test_what_is_no_pair_is_told_by_kind(base: KnowledgeBase) -> None:
    with wild() as server:
        server.paths["/0.png"] = says(picture(0))
        server.paths["/knn-service"] = says_json(
            [
                {"id": 0, "similarity": 1.0, "caption": "a good fox", "url": f"{server.url}/0.png"},
                {"id": 1, "similarity": 0.5, "caption": "\x00\x01", "url": f"{server.url}/0.png"},
            ]
        )
        add(base, "wild", server.url)
        results = base.search(Query(["a fox"], top_k=3))
    assert any("remote wild: 1 of 2 results not taken: empty caption (1)" in text for text in results.trouble)
    hits = results.search(Query(["a fox"], top_k=3, where=Filter(sources=("wild",)))).hits[0]
    assert hits.pair_ids == ("wild/0",)
    assert results.retrievers[0] is not None
    assert results.retrievers[0].corpus.pair("wild/0").licence == "theirs"


def test_a_search_in_the_terminal_shows_remote_hits_and_their_trouble(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KnowledgeBase, "open", lambda root: base)
    add(base, "gone", dead_url())
    page = tmp_path / "page.html"
    told = search_text(tmp_path, "a red fox", top_k=22, page=page)
    assert "far/" in told
    assert "mine/" in told
    assert "trouble   remote gone: " in told
    assert "remote gone: " in page.read_text(encoding="utf-8")


def test_a_query_that_does_not_fit_is_refused(base: KnowledgeBase) -> None:
    with pytest.raises(ValueError, match=r"expected a list of texts, got one text; write Query\(\['a fox'\]\)"):
        Query("a fox")
    with pytest.raises(ValueError, match="exclude: expected one for each of 2 texts, got 1"):
        Query(QUERIES, exclude=[["mine/00001.png"]])
    with pytest.raises(ValueError, match="sets: expected None for a retriever of fixed pairs"):
        base.retriever().search(Query(QUERIES, sets=["mine"]))
