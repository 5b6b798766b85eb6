"""`rag-diffusion cluster serve`: the pictures and hits of one process, also of the shards that are left."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.config import RayConfig, load_config
from rag_diffusion.engine.cluster import engine_of
from rag_diffusion.errors import ConfigError, DataError, RemoteError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.retrieval import factories
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.serving.drawing_queue import DrawingQueue
from rag_diffusion.stages import index
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import write_card
from tests.unit.engine.projects import context, project_to_embed, run_embed
from tests.unit.knowledge.bases import items
from tests.unit.serving.drawing_server import drawing_server, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEXT = "a red circle"
DRAWN = {"prompt": TEXT, "num_inference_steps": 2, "num_neighbors": 2}
KEY = "0123456789abcdef"
SECONDS = 240.0  # that anything may take where cores are busy


@dataclass
class Served:
    """What the command serves.

    Attributes:
        root: the project.
        port: where it answers.
        process: the command; None where this process serves.
    """

    root: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def post(self, path: str, body: Any, key: str = KEY) -> tuple[int, Any]:
        """Status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "X-Api-Key": key})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def hits(self, missing: list[str], changed: Sequence[str] = (), **options: Any) -> list[dict[str, Any]]:
        """Hits of a text once those shards alone do not answer that are named in `missing`."""
        deadline, changed = time.monotonic() + SECONDS, list(changed)
        while True:
            status, answer = self.post("/shards", {"text": TEXT} | options)
            if status == 200 and answer["missing"] == missing:
                assert answer["changed"] == changed
                return list(answer["hits"])
            assert time.monotonic() < deadline, (status, answer)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The folder of a project, and what is served of it."""
    held: dict[str, Any] = {"root": tmp_path_factory.mktemp("served")}
    yield held
    end(held)


def end(held: dict[str, Any]) -> None:
    """End what was served, if anything, as by Ctrl-C; nothing of it is left."""
    if served := held.pop("served", None):
        served.process.send_signal(signal.SIGINT)
        output = served.process.communicate(timeout=SECONDS)[0]
        assert served.process.returncode == 0, output
        assert not left()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", served.port)) != 0


@pytest.fixture
def root(
    once: dict[str, Any],
    tiny_corpus: Corpus,
    tiny_generator: Generator,
    project_root: Path,
    ray_config: RayConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A project of a model, an index in three shards, and a data set beside the pipeline's in three as well."""
    root: Path = once["root"]
    if not (root / "params.yaml").exists():
        params = yaml.safe_load((project_root / "params.yaml").read_text())
        params["index"] |= {"shards": 3, "precision": "float16"}
        params["ray"] |= {"address": ray_config.address, "cpus_per_worker": 0.5}
        project_to_embed(root, tiny_corpus)
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        config = load_config(root / "params.yaml")
        run_embed(root, config)
        index.run(context(root, config))
        (root / layout.MODEL).mkdir()
        save_generator(tiny_generator, root / layout.MODEL)
        write_card(root / layout.MODEL, {"train_entities": []})
        monkeypatch.setattr(factories, "AUTO_EXACT_BELOW", 20)
        KnowledgeBase.open(root).add("mine", items(range(60)))
    engine_of(ray_config).close()  # workers of other tests have the cores
    return root


@pytest.fixture
def served(once: dict[str, Any], root: Path) -> Served:
    """The project, by two replicas, for who has a key."""
    if "served" not in once:
        port = free_port()
        keys = root / "keys.txt"
        keys.touch(mode=0o600)
        keys.write_text(f"reader {KEY} read\n")
        options = ["--project", str(root), "--replicas", "2", "--port", str(port), "--keys", str(keys)]
        process = subprocess.Popen(
            [sys.executable, "-m", "rag_diffusion", "cluster", "serve", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if "replicas: 2" in line:
                break
        assert re.search(rf"replicas: 2, at http://127.0.0.1:{port} ", told), told
        once["served"] = Served(root, port, process)
    found: Served = once["served"]
    return found


def test_what_cannot_be_served_is_told_before_it_starts(once: dict[str, Any], root: Path, tmp_path: Path) -> None:
    end(once)
    with pytest.raises(ConfigError, match=r"expected at most \d+, for which the cluster has room, got 50"):
        start(root, replicas=50)
    shutil.copyfile(root / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "data/kb/mine").mkdir(parents=True)
    (tmp_path / "data/kb/mine/manifest.json").write_text("{}")
    with pytest.raises(DataError, match="expected the manifest of a data set"):
        start(tmp_path)
    assert not left()


def test_a_process_that_cannot_start_ends_the_others_and_is_told(once: dict[str, Any], root: Path) -> None:
    end(once)
    folder = root / layout.INDEX / "shard-00001"
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(
        RemoteError, match="shard-00001: expected a shard of the index, found none; run `dvc repro index`"
    ):
        start(root)
    away.rename(folder)
    assert not left()


def test_data_sets_alone_are_served_and_no_data_set_at_all(
    once: dict[str, Any], root: Path, tmp_path: Path, ray_config: RayConfig
) -> None:
    end(once)
    for name in ("params.yaml", layout.MODEL, layout.ENCODER):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(root / name)
    for pairs, known in ((0, "none"), (60, "mine")):
        if pairs:
            KnowledgeBase.open(tmp_path).add("mine", items(range(60)))
        with for_a_moment(tmp_path) as served:
            assert len(served.hits([], num_results=1000)) == pairs
            assert (
                f"those served, {known}, got" in served.post("/shards", {"text": TEXT, "data_set": "x"})[1]["message"]
            )
            assert served.post("/draw", DRAWN | {"num_neighbors": 0})[0] == 200


@pytest.mark.parametrize("data_set", [None, "corpus", "mine"])
def test_shards_give_the_hits_of_one_process(served: Served, data_set: str | None) -> None:
    base = KnowledgeBase.open(served.root)
    retriever = base.retriever(None if data_set is None else [data_set])
    query = Encoder(served.root / layout.ENCODER, device="cpu").texts([TEXT])
    named = {} if data_set is None else {"data_set": data_set}
    for similarity, found in retriever._indexes.items():
        scores, rows = found.search(query, 200)  # more than a shard has
        hits = served.hits([], similarity=similarity, num_results=200, **named)
        assert [hit["pair_id"] for hit in hits] == retriever.corpus.ids(rows[0])
        assert [hit["score"] for hit in hits] == pytest.approx(scores[0].tolist(), abs=1e-6)
        assert [hit["caption"] for hit in hits] == retriever.corpus.cells("caption", rows[0])
        both = {hit["pair_id"].startswith("mine/") for hit in hits}
        assert both == {None: {True, False}, "corpus": {False}, "mine": {True}}[data_set]


def test_what_cannot_be_asked_is_told(served: Served) -> None:
    status, told = served.post("/shards", {"text": "", "num_results": 0})
    assert status == 422
    assert "text: String should have at least 1 character; body.num_results" in told["message"]
    status, told = served.post("/shards", {"text": TEXT, "data_set": "yours"})
    assert status == 422
    assert "data_set: expected one of those served, corpus, mine, got 'yours'" in told["message"]


def test_replicas_draw_the_pictures_of_one_process(served: Served) -> None:
    def pictures(ask: Callable[[int], Any], clients: int) -> list[Any]:
        with ThreadPoolExecutor(clients) as threads:
            return list(threads.map(ask, range(3, 3 + clients)))

    def there(seed: int) -> Any:
        status, answer = served.post("/draw", DRAWN | {"seed": seed})
        assert status == 200, answer
        return answer["pictures"][0]

    queue = DrawingQueue(served.root, KnowledgeBase.open(served.root))
    with drawing_server(queue, read_only=True) as client:

        def here(seed: int) -> Any:
            return client.post("/draw", json=DRAWN | {"seed": seed}).json()["pictures"][0]

        assert pictures(there, 1) == pictures(here, 1)
        for mine, others in zip(map(here, range(3, 7)), pictures(there, 4), strict=True):
            pixels = [np.asarray(opened(one.pop("image"))).astype(int) for one in (mine, others)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 1  # sums of another batch
            assert mine == others
    queue.close()


def test_the_url_of_a_picture_leads_to_it_at_every_replica(served: Served) -> None:
    status, answer = served.post("/v1/images/generations", DRAWN | {"response_format": "url"})
    assert status == 200, answer
    for _ in range(8):  # of which each replica gets some
        with urllib.request.urlopen(answer["data"][0]["url"], timeout=SECONDS) as file:
            assert Image.open(file).size == (64, 64)


def test_a_key_is_asked_for_and_nobody_writes(served: Served) -> None:
    for path in ("/shards", "/draw", "/knn-service"):
        assert served.post(path, {"text": TEXT}, key="x" * 16)[0] == 401
    assert served.post("/pairs", {"caption": TEXT})[0] == 403


@pytest.mark.parametrize(
    ("data_set", "place"), [("corpus", layout.INDEX), ("mine", "data/kb/mine/00001")], ids=["corpus", "mine"]
)
def test_a_query_whose_shard_is_dead_answers_from_the_others_until_it_is_back(
    served: Served, data_set: str, place: str
) -> None:
    import ray

    everything = served.hits([], num_results=1000)
    ids = KnowledgeBase.open(served.root).retriever([data_set]).corpus.column("pair_id").tolist()
    dead = set(ids[len(ids) // 3 : 2 * len(ids) // 3])
    folder = served.root / place / "shard-00001"
    away = folder.rename(folder.with_name("away"))  # it cannot start before it was missed
    (actor,) = (name for name in left() if f"{data_set}+shard-00001" in name)
    ray.kill(ray.get_actor(actor, namespace="serve"))
    hits = served.hits([f"{data_set}/shard-00001"], num_results=1000)
    assert [hit["pair_id"] for hit in hits] == [hit["pair_id"] for hit in everything if hit["pair_id"] not in dead]
    assert 0 < len(hits) < len(everything)
    other = "mine" if data_set == "corpus" else "corpus"
    assert served.hits([], num_results=1000, data_set=other)
    away.rename(folder)
    assert served.hits([], num_results=1000) == everything


def test_a_cluster_serves_one_project_at_a_time(served: Served) -> None:
    with pytest.raises(ConfigError, match="got one that serves rag-diffusion; `serve shutdown` ends all of it"):
        start(served.root)
    assert served.hits([])


def test_data_sets_that_change_are_served_as_they_were_and_named(served: Served) -> None:
    before = served.hits([], num_results=1000)
    base = KnowledgeBase.open(served.root)
    base.add("more", items(range(5)))
    base.insert("uploads", items(range(5)))
    assert served.hits([], ["more", "uploads"], num_results=1000) == before
    base.remove("uploads")
    base.remove("mine")
    assert served.hits([], ["mine", "more"], num_results=1000) == before


@contextmanager
def for_a_moment(root: Path, **options: Any) -> Iterator[Served]:
    """Serve a project by this process."""
    from rag_diffusion.serving.on_ray import served

    port = free_port()
    with served(root, port=port, **options):
        yield Served(root, port)


def start(root: Path, **options: Any) -> None:
    """What is said of a project that is to be served."""
    with for_a_moment(root, **options):
        pass


def free_port() -> int:
    """Where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def left() -> list[str]:
    """Actors that serve."""
    from ray.util import list_named_actors

    return [found["name"] for found in list_named_actors(all_namespaces=True) if found["namespace"] == "serve"]
