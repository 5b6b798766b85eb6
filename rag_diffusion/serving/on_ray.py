"""A project served by a Ray cluster: replicas of the server, and shards of the indexes, each in a process of its own.

The doors are those of `rag-diffusion ui` but its page and its uploads, and one more:

    POST /shards   {"text": ..., "num_results": 10, "similarity": "text_to_text", "data_set": ...}: hits of all shards
                   of one data set, or of all that lie in the project, merged exactly

Ray gives a request to the replica that has least to do, whose queue draws in batches what fits together. A shard that
is dead or slow is left out of an answer, which names it in `missing`; Ray starts it again. Shards are those that there
were at the start; `changed` names data sets that have other pairs now.

Shapes: D width.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rag_diffusion.arrays import Floats
from rag_diffusion.clip_protocol import MAX_IMAGES, MAX_TEXT
from rag_diffusion.config import RayConfig, load_config
from rag_diffusion.engine.cluster import connect
from rag_diffusion.engine.work import EVERY_SOURCE, check_code
from rag_diffusion.engine.workers import RayEngine
from rag_diffusion.errors import ConfigError, QueryError, RagDiffusionError, RemoteError
from rag_diffusion.files import code_hash
from rag_diffusion.knowledge.catalogue import Catalogue
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import CORPUS, SCRATCH
from rag_diffusion.serving.admission import SEARCHES
from rag_diffusion.serving.admission_queue import AdmissionQueue
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.drawing_queue import BATCH, DrawingQueue
from rag_diffusion.serving.drawn_pictures import SharedPictures
from rag_diffusion.serving.index_shard import IndexShard, served_shards
from rag_diffusion.serving.keys import SHARDS
from rag_diffusion.serving.openapi import described
from rag_diffusion.serving.server import Access, create_app
from rag_diffusion.store.manifest import CORPUS_NAME
from rag_diffusion.store.shared_folder import same_files

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
    data_set: str | None = Field(default=None, max_length=100)


class ShardHit(BaseModel):
    """A pair, and its cosine with the text."""

    pair_id: str
    score: float
    caption: str


class ShardHits(BaseModel):
    """Best first, equal ones by id.

    Beside them shards that did not answer, whose pairs are not among them, each by data set, segment and number, and
    data sets that have other pairs now than those that are served.
    """

    hits: list[ShardHit]
    missing: list[str]
    changed: list[str]


class Replica:
    """The server, with a pipeline of its own. Ray Serve starts it.

    Args:
        root: the project, on every machine.
        model: weights by name; None is the project's own.
        batch: pictures drawn at once.
        access: who may ask.
        shards: of all data sets, by the data set and the name: what answers.
        hashes: of each data set's pairs at the start.
        threads: of an operation of torch.
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
        shards: Mapping[str, Mapping[str, DeploymentHandle]],
        hashes: Mapping[str, str],
        threads: int,
        code: str,
    ) -> None:
        check_code(code)
        torch.set_num_threads(threads)
        self._base = KnowledgeBase.open(root)
        if CORPUS_NAME in hashes:
            same_files(root / CORPUS, hashes[CORPUS_NAME], self._base.info(CORPUS_NAME).hash)
        self._shards, self._hashes = shards, hashes
        self._seen: tuple[object, list[str]] = (None, [])  # a state of all data sets, and what had changed in it
        self._drawing = DrawingQueue(root, self._base, model, batch=batch)
        self._encoding = AdmissionQueue(SEARCHES)
        self._app = create_app(
            self._base, access, drawing=self._drawing, kept=SharedPictures(folder=root / SCRATCH / "pictures")
        )
        told = described(ShardHits, "Hits for a text, of all shards that answer", 503)
        self._app.post(SHARDS, **told)(self.search)
        _ = self._drawing.pipeline  # not ready before, and an error where there is none

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def search(self, query: ShardQuery) -> ShardHits:
        """Hits for a text, of all shards that answer.

        Args:
            query: the text, how many hits, and of which data set.

        Raises:
            QueryError: no such data set is served.
            BodyError: no shard answers, or there is no turn.
        """
        if query.data_set is not None and query.data_set not in self._shards:
            known = ", ".join(self._shards) or "none"
            raise QueryError(f"data_set: expected one of those served, {known}, got {query.data_set!r}"[:1000])
        sets = self._shards if query.data_set is None else [query.data_set]
        asked = {name: shard for data_set in sets for name, shard in self._shards[data_set].items()}
        vector, changed = await self._encoding.run(lambda: (self._base.encoder.texts([query.text]), self._changed()))
        answers = await asyncio.gather(*(self._ask(name, shard, query, vector) for name, shard in asked.items()))
        missing = [name for name, answer in zip(asked, answers, strict=True) if answer is None]
        if asked and len(missing) == len(asked):
            raise BodyError(503, f"expected a shard that answers, got none of {len(asked)}; come again", 5)
        best = sorted(chain.from_iterable(answer or () for answer in answers), key=lambda hit: (-hit[1], hit[0]))
        hits = [ShardHit(pair_id=name, score=score, caption=text) for name, score, text in best[: query.num_results]]
        return ShardHits(hits=hits, missing=missing, changed=changed)

    async def _ask(
        self, name: str, shard: DeploymentHandle, query: ShardQuery, vector: Floats
    ) -> list[tuple[str, float, str]] | None:
        """What a shard answers; None where it does not."""
        try:
            call = shard.search.remote(query.similarity, vector, query.num_results)
            answer: list[tuple[str, float, str]] = await asyncio.wait_for(call, _SECONDS)
        except Exception as error:
            _LOG.warning("%s did not answer: %s", name, type(error).__name__)
            return None
        return answer

    def _changed(self) -> list[str]:
        """Data sets that have other pairs than at the start, are gone, or are new."""
        version = self._base.catalogue.version()
        if self._seen[0] != version:
            present = _hashes(self._base.catalogue)
            names = sorted(present.keys() | self._hashes.keys())
            self._seen = version, [name for name in names if present.get(name) != self._hashes.get(name)]
        return self._seen[1]


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
        DataError, LineageError: a data set cannot be searched.
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
    try:
        status = serve.status()
    except ray.exceptions.RayActorError:  # what this process knew of was ended by another one
        serve.shutdown()
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
    catalogue, code = Catalogue.light(root), code_hash(EVERY_SOURCE)
    hashes, shards = _hashes(catalogue), dict[str, dict[str, serve.Application]]()
    for one in served_shards(catalogue):
        name = one.name.replace("/", "+")  # of log files as well
        actor = serve.deployment(IndexShard).options(name=name, ray_actor_options={"num_cpus": 0}, **_PROCESS)
        shards.setdefault(one.data_set, {})[one.name] = actor.bind(one, code)
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
        hashes=hashes,
        threads=max(1, int(config.cpus_per_worker)),
        code=code,
    )


def _hashes(catalogue: Catalogue) -> dict[str, str]:
    """The hash of the pairs of every data set that can be searched here; of none that is damaged."""
    found = {}
    for name in catalogue.searchable():
        with suppress(RagDiffusionError):
            found[name] = catalogue.info(name).hash
    return found


def _told(error: BaseException) -> str:
    """The last line of what a process raised that did not start, else of an error of Ray Serve."""
    status = serve.status().applications.get(_NAME)
    raised = [one.message for one in status.deployments.values() if one.status == "DEPLOY_FAILED"] if status else []
    return "\n".join([str(error), *raised]).strip().splitlines()[-1].strip()
