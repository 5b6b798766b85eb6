"""A project served by a Ray cluster: replicas of the server, and shards of the index, each in a process of its own.

The doors are those of `rag-diffusion ui` but its page and its uploads, and one more:

    POST /shards   {"text": ..., "num_results": 10, "similarity": "text_to_text"}: hits of all shards, merged exactly

Ray gives a request to the replica that has least to do, whose queue draws in batches what fits together. A shard that
is dead or slow is left out of an answer, which names it in `missing`; Ray starts it again.

Shapes: D width, k hits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.clip_protocol import MAX_IMAGES, MAX_TEXT
from rag_diffusion.config import RayConfig, load_config
from rag_diffusion.engine.cluster import connect
from rag_diffusion.engine.work import EVERY_SOURCE, check_code
from rag_diffusion.engine.workers import RayEngine
from rag_diffusion.errors import ConfigError, RemoteError
from rag_diffusion.files import code_hash
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import CORPUS, INDEX, SCRATCH
from rag_diffusion.retrieval.index_shards import shards_of
from rag_diffusion.retrieval.stacked import merged_hits
from rag_diffusion.serving.admission import SEARCHES
from rag_diffusion.serving.admission_queue import AdmissionQueue
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.drawing_queue import BATCH, DrawingQueue
from rag_diffusion.serving.drawn_pictures import SharedPictures
from rag_diffusion.serving.index_shard import REMEDY, IndexShard
from rag_diffusion.serving.keys import SHARDS
from rag_diffusion.serving.openapi import described
from rag_diffusion.serving.server import Access, create_app
from rag_diffusion.store.pipeline_corpus import read_corpus
from rag_diffusion.store.shared_folder import open_pairs
from rag_diffusion.store.stamps import check_stamp

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_LOG = logging.getLogger(__name__)
_SECONDS = 2.0  # that a shard has for an answer
_NAME = "rag-diffusion"  # of the application
_PROCESS = {
    "max_ongoing_requests": 512,  # what is too much for a replica its own queues refuse
    "max_constructor_retry_count": 2,  # until it has started once
    "graceful_shutdown_timeout_s": 5.0,  # that requests under way have at the end
}
_PATIENT = {"runtime_env": {"env_vars": {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}}}  # where cores are busy


class ShardQuery(BaseModel):
    """A text that is looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1, max_length=MAX_TEXT)
    similarity: Literal["text_to_text", "text_to_image"] = "text_to_text"
    num_results: int = Field(default=10, ge=1, le=MAX_IMAGES)


class ShardHit(BaseModel):
    """A pair of the corpus, and its cosine with the text."""

    pair_id: str
    score: float
    caption: str


class ShardHits(BaseModel):
    """Best first; and the names of shards that did not answer, whose pairs are not among them."""

    hits: list[ShardHit]
    missing: list[str]


class Replica:
    """The server, with a pipeline of its own. Ray Serve starts it.

    Args:
        root: the project, on every machine.
        model: weights by name; None is the project's own.
        batch: pictures drawn at once.
        access: who may ask.
        shards: of the index, by name, in the order of their rows: the first row, and what answers.
        threads: of an operation of torch.
        corpus_hash: of the corpus that the project must have.
        code: see `check_code`.

    Raises:
        ModelError: there are no such weights.
        LineageError: this machine has another corpus or version of the library.
    """

    def __init__(
        self,
        root: Path,
        model: str | None,
        batch: int,
        access: Access,
        *,
        shards: Mapping[str, tuple[int, DeploymentHandle]],
        threads: int,
        corpus_hash: str,
        code: str,
    ) -> None:
        check_code(code)
        torch.set_num_threads(threads)
        self._pairs, self._base = open_pairs(root, corpus_hash), KnowledgeBase.open(root)
        self._shards = shards
        self._drawing = DrawingQueue(root, self._base, model, batch=batch)
        self._encoding = AdmissionQueue(SEARCHES)
        self._app = create_app(
            self._base, access, drawing=self._drawing, kept=SharedPictures(folder=root / SCRATCH / "pictures")
        )
        told = described(ShardHits, "Hits for a text, of all shards of the index that answer", 503)
        self._app.post(SHARDS, **told)(self.search)
        _ = self._drawing.pipeline  # not ready before, and an error where there is none

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def search(self, query: ShardQuery) -> ShardHits:
        """Hits for a text, of all shards that answer.

        Args:
            query: the text, and how many hits.

        Raises:
            BodyError: no shard answers, or there is no turn.
        """
        vector = await self._encoding.run(lambda: self._base.encoder.texts([query.text]))
        answers = await asyncio.gather(*(self._ask(name, query, vector) for name in self._shards))
        told = {name: answer for name, answer in zip(self._shards, answers, strict=True) if answer is not None}
        if not told:
            raise BodyError(503, f"expected a shard that answers, got none of {len(self._shards)}; come again", 5)
        starts = [self._shards[name][0] for name in told]
        scores, rows = merged_hits(list(told.values()), starts, query.num_results)
        found = rows[0] >= 0
        own = np.asarray(rows[0][found])
        names, captions = self._pairs.ids(own), self._pairs.cells("caption", own)
        hits = [
            ShardHit(pair_id=name, score=float(score), caption=caption)
            for name, score, caption in zip(names, scores[0][found], captions, strict=True)
        ]
        return ShardHits(hits=hits, missing=[name for name in self._shards if name not in told])

    async def _ask(self, name: str, query: ShardQuery, vector: Floats) -> tuple[Floats, Ints] | None:
        """What a shard answers; None where it does not."""
        call = self._shards[name][1].search.remote(query.similarity, vector, query.num_results)
        try:
            answer: tuple[Floats, Ints] = await asyncio.wait_for(call, _SECONDS)
        except Exception as error:
            _LOG.warning("%s did not answer: %s", name, type(error).__name__)
            return None
        return answer


@contextmanager
def served(
    root: Path,
    *,
    replicas: int = 1,
    batch: int = BATCH,
    model: str | None = None,
    access: Access | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> Iterator[str]:
    """Serve a project on the cluster that its params.yaml names, until the context is left.

    Args:
        root: the project, on every machine.
        replicas: of the server and its pipeline.
        batch: pictures that a replica draws at once.
        model: weights by name; None is the project's own.
        access: who may ask; uploads are refused.
        host: address to listen at, of the cluster's head.
        port: of it.

    Yields:
        The URL.

    Raises:
        RemoteError: no cluster answers at `ray.address`, or what is served does not start.
        ConfigError: the cluster has no room, or serves something already.
        DataError: the project has no index.
    """
    config = load_config(root / "params.yaml")
    connect(config.ray)
    _check_room(config.ray, replicas)
    application = _application(root, config.ray, replicas, batch, model, access or Access(read_only=True))
    try:
        try:
            serve.start("HeadOnly", {"host": host, "port": port}, controller_options=_PATIENT)
            serve.run(application, name=_NAME)
        except (RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
            raise RemoteError(f"ray: expected {host}:{port} to be served, got: {_told(error)}") from None
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()


def _check_room(config: RayConfig, replicas: int) -> None:
    status = serve.status()
    if status.applications or status.proxies:
        got = ", ".join(status.applications) or "a proxy"
        raise ConfigError(
            f"ray: expected a cluster that serves nothing yet, got one that serves {got}; `serve shutdown` ends "
            "all of it"
        )
    room = RayEngine(config).workers_at_most()
    if replicas > room:
        raise ConfigError(
            f"replicas: expected at most {room}, for which the cluster has room, got {replicas}; each takes "
            "ray.cpus_per_worker cores and ray.gpus_per_worker GPUs"
        )


def _application(
    root: Path,
    config: RayConfig,
    replicas: int,
    batch: int,
    model: str | None,
    access: Access,
) -> serve.Application:
    """What is served, in the words of Ray Serve."""
    manifest, code = read_corpus(root / CORPUS)[1], code_hash(EVERY_SOURCE)
    stamp = check_stamp(root / INDEX, manifest.hash, stage="index")
    rows = manifest.num_pairs
    shards = {}
    for shard in shards_of(root / INDEX, rows, str(stamp["factory"]), REMEDY):
        name = Path(shard["name"]).name or "index"  # of one that lies in no shards
        actor = serve.deployment(IndexShard).options(name=name, ray_actor_options={"num_cpus": 0}, **_PROCESS)
        shards[name] = shard["start"], actor.bind(root, shard, rows, manifest.hash, code)
    server = serve.deployment(serve.ingress()(Replica)).options(
        name="server",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": config.cpus_per_worker, "num_gpus": config.gpus_per_worker},
        **_PROCESS,
    )
    return server.bind(
        root,
        model,
        batch,
        access,
        shards=shards,
        threads=max(1, int(config.cpus_per_worker)),
        corpus_hash=manifest.hash,
        code=code,
    )


def _told(error: BaseException) -> str:
    """The last line of what a process raised that did not start, else of an error of Ray Serve."""
    status = serve.status().applications.get(_NAME)
    raised = [one.message for one in status.deployments.values() if one.status == "DEPLOY_FAILED"] if status else []
    return "\n".join([str(error), *raised]).strip().splitlines()[-1].strip()
