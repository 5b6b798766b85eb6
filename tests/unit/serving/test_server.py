from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.remote.remote_source import RemoteSource
from rag_diffusion.readers.images import decode
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.query import Query
from rag_diffusion.serving import knn_service
from rag_diffusion.serving.queries import global_id
from rag_diffusion.store.manifest import REMOTE, Manifest
from tests.unit.guarded_http.wild import png, says, wild
from tests.unit.serving.served import STYLES, Client, copy_of, served, two_data_sets


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> KnowledgeBase:
    """Do not change it."""
    return two_data_sets(tmp_path_factory.mktemp("project"), request.config.rootpath)


@pytest.fixture(scope="module")
def client(base: KnowledgeBase) -> Iterator[Client]:
    with served(base) as running:
        yield running


@pytest.fixture
def own(base: KnowledgeBase, tmp_path: Path) -> KnowledgeBase:
    """A copy to change."""
    return copy_of(base, tmp_path)


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [entry["pair_id"] for entry in found]


def test_a_text_gets_what_the_retriever_finds_with_all_that_a_client_reads(client: Client, base: KnowledgeBase) -> None:
    found = client.knn(text="a red circle", num_images=5)
    hits = base.search(Query(["a red circle"], top_k=5)).hits[0]

    assert ids(found) == list(hits.pair_ids)
    assert [entry["similarity"] for entry in found] == pytest.approx(hits.scores)
    assert [entry["id"] for entry in found] == [global_id(name) for name in hits.pair_ids]
    assert {"id", "similarity", "url", "caption"} <= set(found[0])
    assert found[0]["caption"].startswith("red circle, ")
    assert "image" not in found[0]


def test_a_text_among_captions_leaves_the_pictures_out(client: Client, base: KnowledgeBase) -> None:
    found = client.knn(text="blue moon", num_images=8, modality="text")
    weights = dict(base.config.retrieval.weights.model_dump()) | {"text_to_image": 0.0}
    retriever = base.retriever()
    other = type(retriever)(
        retriever.corpus, retriever.vectors, retriever.lexical, retriever._indexes, weights=weights,
        embed=base.encoder.texts,
    )  # fmt: skip

    assert ids(found) == list(other.search(Query(["blue moon"], top_k=8)).hits[0].pair_ids)


def test_an_image_is_ranked_by_its_cosine_to_the_pictures_and_finds_itself(client: Client, base: KnowledgeBase) -> None:
    pair = base.retriever().corpus.pair("noto/blue-moon.png")
    found = client.knn(image=base64.b64encode(pair.image).decode(), num_images=120, deduplicate=False)
    vectors = np.asarray(base.retriever().vectors.image)
    cosines = vectors @ base.encoder.images(np.asarray(decode(pair.image, "query"))[None])[0]

    assert found[0]["pair_id"] == pair.pair_id
    assert [entry["similarity"] for entry in found] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_vector_is_ranked_by_its_cosine_to_pictures_or_captions(
    client: Client, base: KnowledgeBase, modality: str
) -> None:
    vectors = base.retriever().vectors
    table = np.asarray(vectors.image if modality == "image" else vectors.text)
    query = 3 * table[7].astype(np.float64)
    found = client.knn(embedding_input=query.tolist(), modality=modality, num_images=10, deduplicate=False)

    assert [entry["similarity"] for entry in found] == pytest.approx(np.sort(table @ table[7])[::-1][:10], abs=1e-5)
    assert base.retriever().corpus.ids(np.asarray([7]))[0] in ids(found)[:2]


def test_results_beyond_num_images_are_ids_alone(client: Client) -> None:
    found = client.knn(text="green square", num_images=2, num_result_ids=5)

    assert [sorted(entry) == ["id", "similarity"] for entry in found] == [False, False, True, True, True]
    assert len({entry["id"] for entry in found}) == 5


def test_images_come_where_they_are_asked_for_and_lie_at_their_url(client: Client, base: KnowledgeBase) -> None:
    (found,) = client.knn(text="orange ring", num_images=1, with_images=True)
    stored = base.retriever().corpus.pair(found["pair_id"]).image

    assert base64.b64decode(found["image"]) == stored
    answer = requests.get(found["url"], timeout=20)
    assert (answer.content, answer.headers["content-type"]) == (stored, "image/png")


def test_images_beyond_what_one_answer_holds_have_their_url_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(base64.b64decode(one["image"])) for one in client.knn(text="red", num_images=100, with_images=True)]
    monkeypatch.setattr(knn_service, "MAX_SHOWN", sum(sizes[:7]) + 1)
    found = client.knn(text="red", num_images=100, with_images=True)

    assert len(sizes) > 60
    assert ["image" in one for one in found] == [True] * 7 + [False] * (len(sizes) - 7)
    assert all(one["url"] for one in found)


def test_metadata_comes_in_the_order_of_the_ids_and_null_for_an_unknown_one(client: Client) -> None:
    keys = [global_id("twemoji/red-moon.png"), 5, global_id("noto/red-moon.png"), 2**70, -1]
    found = client.post("/metadata", json={"ids": keys, "indice_name": "all"}).json()

    assert [entry["id"] for entry in found] == keys
    told = [entry["metadata"] and entry["metadata"]["pair_id"] for entry in found]
    assert told == ["twemoji/red-moon.png", None, "noto/red-moon.png", None, None]
    assert found[0]["metadata"]["licence"] == "MIT"
    assert client.post("/metadata", json={"ids": [], "indice_name": "all"}).json() == []


def test_every_data_set_is_an_index_and_all_of_them_together_are_the_first(client: Client) -> None:
    assert client.get("/indices-list").json() == ["all", "noto", "twemoji"]
    for name in STYLES:
        found = client.knn(text="red circle", indice_name=name, num_images=100, deduplicate=False)
        assert len(found) == 60
        assert all(pair_id.startswith(f"{name}/") for pair_id in ids(found))
    assert ids(client.knn(text="red circle", indice_name=None)) == ids(client.knn(text="red circle"))


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ({"source": ["noto"]}, lambda entry: entry["source"] == "noto"),
        ({"class": ["moon", "ring"]}, lambda entry: entry["label"] in ("moon", "ring")),
        ({"licence": ["MIT"]}, lambda entry: entry["licence"] == "MIT"),
        ({"split": ["test"]}, lambda entry: entry["split"] == "test"),
        ({"split": ["train"], "class": ["dots"]}, lambda entry: (entry["split"], entry["label"]) == ("train", "dots")),
    ],
)
def test_filters_let_through_all_that_pass_and_nothing_else(client: Client, where: dict[str, Any], passes: Any) -> None:
    everything = client.knn(text="red", num_images=200, deduplicate=False)
    found = client.knn(text="red", num_images=200, deduplicate=False, where=where)

    assert len(everything) == 120
    assert set(ids(found)) == {entry["pair_id"] for entry in everything if passes(entry)}
    assert found


def test_excluded_pairs_do_not_come(client: Client, base: KnowledgeBase) -> None:
    best = ids(client.knn(text="red circle", num_images=2))
    found = client.knn(text="red circle", num_images=5, exclude=[*best, "unknown/pair"])

    assert ids(found) == list(base.search(Query(["red circle"], top_k=5, exclude=[best])).hits[0].pair_ids)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "expected one of text, image, image_url and embedding_input, got none"),
        ({"text": "a", "indice_name": "laion5B"}, "expected one of all, noto, twemoji, got 'laion5B'"),
        ({"text": "a", "modality": "sound"}, "modality"),
        ({"text": "a", "num_images": "many"}, "num_images"),
        ({"image": "%%%"}, "not base64"),
        ({"image": base64.b64encode(b"<html>").decode()}, "expected a readable image"),
        ({"image": base64.b64encode(png()[:40]).decode()}, "expected a readable image"),
        ({"embedding_input": [0.5] * 15}, "expected 16 numbers, a vector of this server's own encoder, got 15"),
        ({"image_url": "http://127.0.0.1:9/a.png"}, "expected a host with public addresses, got 127.0.0.1"),
        ({"image_url": "http://[::ffff:10.0.0.1]/a.png"}, "expected a host with public addresses"),
        ({"image_url": "file:///etc/passwd"}, "expected an http or https URL"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(client: Client, query: dict[str, Any], said: str) -> None:
    answer = client.post("/knn-service", json={"num_images": 3, "modality": "image"} | query)

    assert answer.status_code == 422
    assert list(answer.json()) == ["message"]
    assert said in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/knn-service", b"", 400),
        ("/knn-service", b"[1]", 400),
        ("/knn-service", b"[" * 100_000, 400),
        ("/knn-service", b"\xff\xfe\x00", 400),
        ("/metadata", b'{"ids": ["x"]}', 422),
        ("/metadata", b'{"ids": [1], "indice_name": "none"}', 422),
        ("/images/5", b"", 405),
        ("/nothing", b"", 404),
    ],
)
def test_every_error_is_json_with_a_message(client: Client, path: str, body: bytes, status: int) -> None:
    answer = client.post(path, data=body)

    assert answer.status_code == status
    assert answer.json()["message"]


def test_many_clients_at_once_get_what_one_alone_gets(client: Client) -> None:
    texts = [f"{color} {shape}" for color in ("red", "green", "blue") for shape in ("moon", "bar", "diamond")]
    alone = [ids(client.knn(text=text, num_images=5)) for text in texts]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda text: ids(client.knn(text=text, num_images=5)), texts * 4))

    assert together == alone * 4


def test_an_image_that_is_not_there_is_404(client: Client) -> None:
    assert client.get("/images/5").status_code == 404
    assert client.get("/images/moon").status_code == 422


def test_a_body_beyond_its_limit_is_refused_announced_or_not(client: Client) -> None:
    announced = client.post("/metadata", data=b" " * (2**20 + 1))
    chunked = client.post("/metadata", data=iter([b" " * 2**18] * 5))

    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert "at most 1048576 bytes" in announced.json()["message"]
    assert client.get("/health").json()["num_pairs"] == 120


def test_an_image_url_of_a_host_that_the_user_named_is_fetched(own: KnowledgeBase) -> None:
    picture = own.retriever().corpus.pair("noto/red-cross.png").image
    page = says(b"<html>", "text/html")
    with wild({"/a.png": says(picture), "/b": page}) as there, served(own, allow_hosts=["127.0.0.1"]) as client:
        found = client.knn(image_url=f"{there.url}/a.png", num_images=1)
        wrong = client.post("/knn-service", json={"image_url": f"{there.url}/b"})

    assert ids(found) == ["noto/red-cross.png"]
    assert "got text/html" in wrong.json()["message"]


def test_of_near_duplicates_the_best_comes(own: KnowledgeBase) -> None:
    picture = png("purple", 64)
    own.insert(
        "uploaded", [Item(name=str(number), image=picture, caption=f"a zorkmid {number}") for number in range(5)]
    )
    with served(own) as client:
        together = client.knn(text="zorkmid", num_images=10, deduplicate=False)
        alone = client.knn(text="zorkmid", num_images=10)

    assert sorted(ids(together)[:5]) == [f"uploaded/{number}" for number in range(5)]
    assert [name for name in ids(alone) if name.startswith("uploaded/")] == ids(together)[:1]
    assert len(alone) == 10


def test_our_remote_source_finds_on_our_server_what_is_found_there(client: Client, base: KnowledgeBase) -> None:
    source = RemoteSource(Manifest(name="there", form=REMOTE, url=client.url, allow_hosts=("127.0.0.1",)))
    found = source.find(["a red circle", "a blue moon"], top_k=6, deadline=20)
    hits = base.search(Query(["a red circle", "a blue moon"], top_k=6)).hits

    assert found.trouble == ""
    assert source.indices() == ["all", "noto", "twemoji"]
    for row, own in enumerate(hits):
        theirs = [hit for hit in found.items if row in hit.queries]
        assert {hit.item.name for hit in theirs} == {str(global_id(name)) for name in own.pair_ids}
    best = next(hit for hit in found.items if hit.item.name == str(global_id(hits[0].pair_ids[0])))
    pair = base.retriever().corpus.pair(hits[0].pair_ids[0])
    assert (best.item.image, best.item.caption, best.item.licence) == (pair.image, pair.caption, pair.licence)


def test_without_any_pair_the_server_answers_and_waits_for_some(own: KnowledgeBase) -> None:
    for name in STYLES:
        own.remove(name)
    with served(own) as client:
        assert client.knn(text="anything") == []
        assert client.get("/indices-list").json() == ["all"]
        assert client.post("/metadata", json={"ids": [5]}).json() == [{"id": 5, "metadata": None}]
        client.post("/pairs", files={"image": png()}, data={"caption": "a red square"})
        assert [entry["caption"] for entry in client.knn(text="anything")] == ["a red square"]
