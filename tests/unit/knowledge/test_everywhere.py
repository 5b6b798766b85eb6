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

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.remote.machine import RemoteSource
from rag_diffusion.readers.images import decode, encode_png
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.terminal.kb_search import search
from tests.unit.knowledge.bases import SIZE, items, make_base, picture
from tests.unit.knowledge.remote.wild import says, says_json, wild
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
    wanted = here.search(QUERIES, top_k=22)

    places = base.everywhere(QUERIES, top_k=22)
    found = places.search(QUERIES, top_k=22)
    assert places.trouble == ()
    assert places.remotes == ("far",)
    for retriever, hits, same in zip(places.retrievers, found, wanted, strict=True):
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
        together = base.everywhere(QUERIES, top_k=top_k).search(QUERIES, top_k=top_k)
        alone = [base.everywhere([query], top_k=top_k).search([query], top_k=top_k)[0] for query in QUERIES]
        assert together == alone


def test_remote_pairs_are_filtered_and_excluded(base: KnowledgeBase) -> None:
    places = base.everywhere(QUERIES[:1], top_k=5)
    for where in (Filter(sources=("far",)), Filter(licences=("CC0-1.0",))):
        hits = places.search(QUERIES[:1], top_k=5, where=where)[0]
        assert len(hits.pair_ids) == 5
        assert all(name.startswith("far/") for name in hits.pair_ids)
    assert all(
        name.startswith("mine/")
        for name in places.search(QUERIES[:1], top_k=5, where=Filter(sources=("mine",)))[0].pair_ids
    )
    best = places.search(QUERIES[:1], top_k=1, where=Filter(sources=("far",)))[0].pair_ids[0]
    never_sent = "far/12345"
    rest = places.search(QUERIES[:1], top_k=22, exclude=[[best, never_sent]])[0].pair_ids
    assert best not in rest
    assert len(rest) == 21
    with pytest.raises(LineageError, match="expected a pair 'mine/none'"):
        places.search(QUERIES[:1], top_k=2, exclude=[["mine/none"]])


def test_a_dead_remote_is_told_and_the_rest_is_found(base: KnowledgeBase) -> None:
    add(base, "far", dead_url())
    places = base.everywhere(QUERIES, top_k=3)
    assert places.search(QUERIES, top_k=3) == list(base.search(QUERIES, top_k=3))
    assert len(places.trouble) == 1
    assert places.trouble[0].startswith("remote far: 2 of 2 queries failed")


def test_everything_said_per_query_is_said_to_its_own_query(base: KnowledgeBase) -> None:
    places = base.everywhere(QUERIES, top_k=4)
    assert places.retrievers[0] is not places.retrievers[1]
    plain = places.search(QUERIES, top_k=4)
    assert places.search(QUERIES, top_k=4, query_vectors=base.encoder.texts(QUERIES)) == plain
    pixels = []
    for retriever, hits in zip(places.retrievers, plain, strict=True):
        assert retriever is not None
        pixels.append(retriever.corpus.pixels(retriever.corpus.rows(hits.pair_ids[:1]))[0])
    for found, hits in zip(places.search(QUERIES, top_k=4, exclude_images=np.stack(pixels)), plain, strict=True):
        assert hits.pair_ids[0] not in found.pair_ids
        assert found.pair_ids[:3] == hits.pair_ids[1:]


def test_near_duplicates_of_other_data_sets_do_not_come(base: KnowledgeBase) -> None:
    base.add("again", [replace(one, name=f"same-{one.name}", image=nearly(one.image)) for one in items(HERE)])
    places = base.everywhere(["a red fox"], top_k=32)
    kept, left = (
        set(
            places.search(["a red fox"], top_k=32, exclude=[["mine/00000.png"]], without_duplicates=without)[0].pair_ids
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
        places = base.everywhere(["a red fox and the moon", "a drum"], top_k=2)
        asked = sorted(json.loads(body)["text"] for _, path, body in server.asked if path == "/knn-service")
    assert asked == ["a drum", "a red fox", "a red fox and the moon", "the moon"]
    for retriever in places.retrievers:
        assert retriever is not None
        assert retriever.corpus.ids(np.arange(len(retriever.corpus))).count("wild/0") == 1


def test_filters_reach_a_remote_of_ours(tmp_path: Path) -> None:
    there = make_base(tmp_path / "there")
    there.add("many", [*items(range(150), licence="MIT"), *items(range(1000, 1003), prefix="rare-", licence="CC0-1.0")])
    here = make_base(tmp_path)
    rare = Filter(licences=("CC0-1.0",))
    with served(there) as client:
        add(here, "far", client.url)
        hits = here.everywhere(["a red fox"], top_k=3, where=rare).search(["a red fox"], top_k=3, where=rare)[0]
        assert len(hits.pair_ids) == 3
        other = here.everywhere(["a red fox"], top_k=3, where=Filter(sources=("elsewhere",)))
        assert other.remotes == ()
        none = here.everywhere(["a red fox"], top_k=3, where=Filter(licences=("nobody's",)))
        assert none.search(["a red fox"], top_k=3, where=Filter(licences=("nobody's",)))[0].pair_ids == ()


def test_a_remote_that_does_not_filter_is_told_of(base: KnowledgeBase) -> None:
    with wild() as server:
        server.paths["/0.png"] = says(picture(0))
        server.paths["/knn-service"] = says_json(
            [{"id": 0, "similarity": 1.0, "caption": "a fox", "url": f"{server.url}/0.png", "split": "test"}]
        )
        add(base, "wild", server.url)
        places = base.everywhere(["a fox"], top_k=3, where=Filter(splits=("train",), sources=("wild",)))
    assert places.trouble == ("remote wild: none of 1 results passes the filters",)
    hits = places.search(["a fox"], top_k=3, where=Filter(splits=("test",), sources=("wild",)))[0]
    assert hits.pair_ids == ("wild/0",)


def test_what_was_found_can_be_read_after_its_data_set_was_replaced(base: KnowledgeBase) -> None:
    places = base.everywhere(QUERIES, top_k=3)
    local = base.retriever()
    base.add("mine", items(range(50, 60)), replace=True)
    for retriever in (*places.retrievers, local):
        assert retriever is not None
        assert len(retriever.corpus.pixels(np.arange(len(retriever.corpus)))) == len(retriever.corpus)
    hits = base.everywhere(QUERIES, top_k=22).search(QUERIES, top_k=22)[0]
    assert "mine/00050.png" in hits.pair_ids


def test_images_of_a_remote_that_is_removed_meanwhile_are_not_kept(base: KnowledgeBase) -> None:
    source = RemoteSource.open(base.catalogue.places, base.info("far"))
    base.remove("far")
    found = source.find(["a fox"], top_k=3)  # by a query that began before
    assert found.items
    folder = base.catalogue.places.cache("far")
    assert not folder.exists()
    folder.mkdir(parents=True)  # what a killed one left
    (folder / "0123").write_bytes(b"left")
    base.catalogue.places.finish()
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
    assert [path.name for path in base.catalogue.places.folder("mine").iterdir()] == ["manifest.json"]


def test_images_are_small_as_soon_as_they_are_decoded(base: KnowledgeBase) -> None:
    with wild() as server:
        server.paths["/0.png"] = says(picture(0, 2000))
        server.paths["/knn-service"] = says_json(
            [{"id": 0, "similarity": 1.0, "caption": "a fox", "url": f"{server.url}/0.png"}]
        )
        add(base, "wild", server.url)
        found = RemoteSource.open(base.catalogue.places, base.info("wild"), size=SIZE).find(["a fox"], top_k=1)
    assert decode(found.items[0].item.image, "it").size == (SIZE, SIZE)


def test_a_cache_that_cannot_be_written_stops_nothing(base: KnowledgeBase) -> None:
    (base.catalogue.places.base / ".cache").write_text("a file in the way")
    places = base.everywhere(QUERIES, top_k=2)
    assert places.trouble == ()
    assert all(len(hits.pair_ids) == 2 for hits in places.search(QUERIES, top_k=2))


def test_lexical_indexes_of_one_query_are_in_memory_at_a_time(base: KnowledgeBase) -> None:
    places = base.everywhere(QUERIES, top_k=3)
    first, second = (retriever.lexical["bm25"] for retriever in places.retrievers if retriever is not None)
    made = weakref.ref(first._all_of()["bm25"])
    assert made() is not None
    second.explain("fox")
    gc.collect()
    assert made() is None
    assert first.explain("fox") != {}


def test_remotes_alone_are_a_knowledge_base(tmp_path: Path, other: Client) -> None:
    base = make_base(tmp_path)
    with pytest.raises(DataError, match="expected at least one data set to search"):
        base.everywhere(QUERIES, top_k=2)
    add(base, "far", other.url)
    hits = base.everywhere(QUERIES, top_k=2).search(QUERIES, top_k=2)
    assert [len(one.pair_ids) for one in hits] == [2, 2]
    add(base, "far", dead_url())
    places = base.everywhere(QUERIES, top_k=2)
    assert places.retrievers == [None, None]
    assert places.trouble
    assert [one.pair_ids for one in places.search(QUERIES, top_k=2)] == [(), ()]


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
        places = base.everywhere(["a fox"], top_k=3)
    assert any("remote wild: 1 of 2 results not taken: empty caption (1)" in text for text in places.trouble)
    hits = places.search(["a fox"], top_k=3, where=Filter(sources=("wild",)))[0]
    assert hits.pair_ids == ("wild/0",)
    assert places.retrievers[0] is not None
    assert places.retrievers[0].corpus.pair("wild/0").licence == "theirs"


def test_a_search_in_the_terminal_shows_remote_hits_and_their_trouble(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KnowledgeBase, "open", lambda root: base)
    add(base, "gone", dead_url())
    page = tmp_path / "page.html"
    told = search(tmp_path, "a red fox", top_k=22, page=page)
    assert "far/" in told
    assert "mine/" in told
    assert "trouble   remote gone: " in told
    assert "remote gone: " in page.read_text(encoding="utf-8")
