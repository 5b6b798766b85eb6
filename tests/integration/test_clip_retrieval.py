"""clip-retrieval's own client against our server, and our remote source against its own back end.

Its pins conflict with ours, so it gets an environment of its own, by pip, in a temporary folder.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest
import requests
import torch

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.remote.remote_source import RemoteSource
from rag_diffusion.retrieval.query import Query
from rag_diffusion.serving.queries import global_id
from rag_diffusion.store.manifest import REMOTE, Manifest
from tests.unit.guarded_http.wild import says, wild
from tests.unit.serving.served import served, two_data_sets

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

HERE = Path(__file__).parent / "clip_retrieval_there"
PACKAGE = "clip-retrieval==2.45.0"
CLIENT = ("requests>=2.28,<3", "urllib3", "idna", "charset-normalizer", "certifi")
BACK = (
    "flask>=3,<4", "flask_restful<1", "flask_cors>=4,<5", "fire<0.6", "h5py<4", "prometheus-client<1", "tqdm<5",
    "fsspec", "numpy<2", "pandas<3", "pyarrow<16", "faiss-cpu<2", "aiohttp<4", "setuptools<80", "pillow",
)  # fmt: skip


def install(python: Path, *packages: str) -> None:
    """Install into an environment, or skip where the package index cannot be reached."""
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(packages)} here: {done.stderr.strip().splitlines()[-1][:300]}")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has clip-retrieval."""
    folder = tmp_path_factory.mktemp("clip-retrieval")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install(python, "--no-deps", PACKAGE, *CLIENT)
    return python


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> KnowledgeBase:
    return two_data_sets(tmp_path_factory.mktemp("project"), request.config.rootpath)


def test_its_client_gets_correct_answers_from_our_server(there: Path, base: KnowledgeBase, tmp_path: Path) -> None:
    pair = base.retriever().corpus.pair("noto/blue-moon.png")
    (tmp_path / "query.png").write_bytes(pair.image)
    vector = np.asarray(base.retriever().vectors.image)[5]
    with served(base, allow_hosts=["127.0.0.1"]) as client:
        knn = {"url": f"{client.url}/knn-service", "num_images": 7}
        asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (knn | {"indice_name": "all"}, {"text": "a red circle"}),
            (knn | {"indice_name": "twemoji", "modality": "text"}, {"text": "a blue ring"}),
            (knn | {"indice_name": "all"}, {"image": str(tmp_path / "query.png")}),
            (knn | {"indice_name": "all"}, {"image": f"{client.url}/images/{global_id(pair.pair_id)}"}),
            (knn | {"indice_name": "all", "deduplicate": False}, {"embedding_input": vector.tolist()}),
        ]
        told = subprocess.run(
            [there, HERE / "ask.py"], input=json.dumps(asked), capture_output=True, text=True, check=True
        )
        by_text, by_caption, by_image, by_url, by_vector = json.loads(told.stdout)
        fetched = [requests.get(entry["url"], timeout=20).content for entry in by_text]

    hits = base.search(Query(["a red circle"], top_k=7)).hits[0]
    assert [entry["pair_id"] for entry in by_text] == list(hits.pair_ids)
    assert [entry["id"] for entry in by_text] == [global_id(name) for name in hits.pair_ids]
    assert [entry["similarity"] for entry in by_text] == pytest.approx(hits.scores)
    pairs = [base.retriever().corpus.pair(name) for name in hits.pair_ids]
    assert [entry["caption"] for entry in by_text] == [one.caption for one in pairs]
    assert fetched == [one.image for one in pairs]
    assert by_caption[0]["caption"] == "blue ring, twemoji style"
    assert {entry["source"] for entry in by_caption} == {"twemoji"}
    assert by_image == by_url
    assert (by_image[0]["pair_id"], round(by_image[0]["similarity"], 4)) == (pair.pair_id, 1.0)
    cosines = np.sort(np.asarray(base.retriever().vectors.image) @ vector)[::-1][:7]
    assert [entry["similarity"] for entry in by_vector] == pytest.approx(cosines, abs=1e-5)


@pytest.fixture
def back(there: Path, base: KnowledgeBase, tmp_path: Path) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Its back end over our pictures and vectors: its URL, the texts it knows, and our cosines (texts, pairs)."""
    install(there, *BACK)
    retriever, rows = base.retriever(), np.arange(120)
    names, captions = (retriever.corpus.cells(name, rows) for name in ("pair_id", "caption"))
    images = np.asarray(retriever.vectors.image)
    texts = ["a red circle", "a green ring", "nothing at all"]
    vectors = base.encoder.texts(texts)
    folder = tmp_path / "index"
    (folder / "metadata").mkdir(parents=True)
    index = faiss.IndexFlatIP(images.shape[1])
    index.add(images)
    faiss.write_index(index, str(folder / "image.index"))
    (folder / "texts.txt").write_text("\n".join(texts))
    np.save(folder / "texts.npy", vectors)
    (folder / "indices.json").write_text(json.dumps({"drawings": str(folder)}))
    with wild({f"/{row}.png": says(retriever.corpus.pair(name).image) for row, name in enumerate(names)}) as pictures:
        urls = [f"{pictures.url}/{row}.png" for row in rows]
        pd.DataFrame({"url": urls, "caption": captions}).to_parquet(folder / "metadata" / "0.parquet")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        site = Path(torch.__file__).parents[1]
        with (tmp_path / "log").open("w") as log:
            running = subprocess.Popen(
                [there, HERE / "serve.py", folder, str(port), site], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_for(f"http://127.0.0.1:{port}/indices-list", running, tmp_path / "log")
            yield f"http://127.0.0.1:{port}", texts, vectors @ images.T
        finally:
            running.terminate()
            running.wait(20)


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert running.poll() is None, log.read_text()[-3000:]
        try:
            requests.get(url, timeout=1)
            return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_our_remote_source_gets_correct_answers_from_its_back_end(
    back: tuple[str, list[str], np.ndarray], base: KnowledgeBase
) -> None:
    url, texts, cosines = back
    source = RemoteSource(Manifest(name="there", form=REMOTE, url=url, index="drawings", allow_hosts=["127.0.0.1"]))
    answer = source.find(texts, top_k=5, deadline=60)
    pairs = base.retriever().corpus
    names = pairs.ids(np.arange(120))

    assert source.indices() == ["drawings"]
    assert answer.trouble == ""
    for row in range(len(texts)):
        found = [int(hit.item.name) for hit in answer.items if row in hit.queries]
        assert len(found) == 5
        assert np.sort(cosines[row, found])[::-1] == pytest.approx(np.sort(cosines[row])[::-1][:5], abs=1e-4)
    for hit in answer.items:
        pair = pairs.pair(names[int(hit.item.name)])
        assert (hit.item.caption, hit.item.image) == (pair.caption, pair.image)
        assert hit.score == pytest.approx(max(cosines[row, int(hit.item.name)] for row in hit.queries), abs=1e-4)


def test_a_query_that_its_back_end_cannot_answer_is_reported(back: tuple[str, list[str], np.ndarray]) -> None:
    url, _, _ = back
    answer = RemoteSource(Manifest(name="there", form=REMOTE, url=url, allow_hosts=["127.0.0.1"])).find(
        ["unknown"], top_k=5, deadline=60
    )

    assert answer.items == []
    assert "expected status 200, got 500" in answer.trouble
