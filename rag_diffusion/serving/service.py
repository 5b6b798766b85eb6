"""What the server does, without HTTP: queries on the present state of a knowledge base, and uploads into it.

A query keeps the state that it began with. A new state is opened beside the old one, by whoever needs it first; others
go on with the old one until it is there, so that searches never wait for an upload.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from rag_diffusion.arrays import Pixels
from rag_diffusion.clip_protocol import MAX_IMAGE_BYTES, decode_base64
from rag_diffusion.errors import DataError, LineageError, QueryError
from rag_diffusion.guarded_http.deadline import Deadline
from rag_diffusion.guarded_http.download import DownloadLimits, get
from rag_diffusion.knowledge.folders import ALL, check_name
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.writer import UNKNOWN
from rag_diffusion.readers.checked import to_pair
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.serving.knn_service import KnnService
from rag_diffusion.serving.pictures import Pictures
from rag_diffusion.serving.queries import KnnRequest, MetadataRequest
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.store.originals import Original
from rag_diffusion.types import Pair

FETCH_SECONDS = 10.0  # of an `image_url` query

_PUBLIC = (  # of a manifest
    "name",
    "form",
    "licence",
    "attribution",
    "num_pairs",
    "num_rejected",
    "rejected_by_reason",
    "counts",
    "hash",
    "image_size",
    "encoder_hash",
    "recall",
    "precisions",
    "generation",
)
_TRIES = 5  # to answer from a state that is being replaced

UrlOf = Callable[[int], str]
Result = TypeVar("Result")


class State:
    """One state of a knowledge base.

    Args:
        kb: the knowledge base.

    Attributes:
        version: of the knowledge base.
        names: of the data sets that can be searched here.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self.version = kb.catalogue.version()
        self.names = tuple(kb.catalogue.searchable())
        self._kb = kb
        self._own: dict[str, KnnService] = {}
        self._lock = threading.Lock()

    @cached_property
    def everything(self) -> KnnService | None:
        """Over all data sets; None where there is no pair yet."""
        return KnnService(self._kb.retriever(self.names)) if self.names else None

    def knn_service(self, index: str | None) -> KnnService | None:
        """What answers for an `index`: a data set, or all of them, which is the first; None where there is no pair.

        Raises:
            QueryError: there is no such index.
        """
        if index is None or index == ALL:
            return self.everything
        if index not in self.names:
            raise QueryError(f"indice_name: expected one of {', '.join((ALL, *self.names))}, got {index!r}"[:1000])
        with self._lock:
            if index not in self._own:
                self._own[index] = KnnService(self._kb.retriever([index]))
            return self._own[index]


class Service:
    """Answers and uploads. Safe among threads.

    Args:
        kb: the knowledge base.
        allow_hosts: hosts of `image_url` queries that may have private addresses, see `check_url`.
    """

    def __init__(self, kb: KnowledgeBase, *, allow_hosts: Collection[str] = ()) -> None:
        self.kb = kb
        self._allow_hosts = tuple(allow_hosts)
        self._renewing, self._writing = threading.Lock(), threading.Lock()
        self.pictures = Pictures()
        kb.writer.decode = self.pictures.checked
        self._state = self._opened()

    @property
    def state(self) -> State:
        """The present state; the one before it while another thread opens the present one."""
        if self._state.version != self.kb.catalogue.version() and self._renewing.acquire(blocking=False):
            try:
                self._state = self._opened()
            finally:
                self._renewing.release()
        return self._state

    def indices(self) -> list[str]:
        """Names of the indexes."""
        return [ALL, *self.state.names]

    def knn(self, request: KnnRequest, url: UrlOf) -> list[dict[str, Any]]:
        """Answer a query.

        Args:
            request: the query.
            url: where the image of a global id can be fetched.

        Returns:
            See `KnnService.knn`.

        Raises:
            QueryError: its index is unknown, its vector has another width, or its image is none.
            RemoteError: its image could not be fetched.
        """
        pixels, where = self._pixels(request), request.where.filter

        def answer(state: State) -> list[dict[str, Any]]:
            service = state.knn_service(request.indice_name)
            return [] if service is None else service.knn(request, pixels=pixels, where=where, url=url)

        return self._on_state(answer)

    def metadata(self, request: MetadataRequest, url: UrlOf) -> list[dict[str, Any]]:
        """Describe pairs by their global ids.

        Args:
            request: the ids.
            url: where the image of a global id can be fetched.

        Returns:
            `id` and `metadata` for each, in their order; None for an id that no pair has.

        Raises:
            QueryError: the index is unknown.
        """

        def answer(state: State) -> list[dict[str, Any]]:
            service = state.knn_service(request.indice_name)
            rows = [None] * len(request.ids) if service is None else service.rows(request.ids)
            known = [row for row in rows if row is not None]
            entries: Iterable[dict[str, Any]] = ()
            if service is not None and known:
                entries = service.entries(np.asarray(known), url=url, with_images=request.with_images)
            entry = iter(entries)
            return [
                {"id": key, "metadata": None if row is None else next(entry)}
                for key, row in zip(request.ids, rows, strict=True)
            ]

        return self._on_state(answer)

    def image(self, key: int) -> bytes | None:
        """PNG of the pair whose global id is `key`; None where there is none."""

        def answer(state: State) -> bytes | None:
            if state.everything is None:
                return None
            (row,) = state.everything.rows([key])
            return None if row is None else state.everything.image(row)

        return self._on_state(answer)

    def original(self, key: int) -> Original | None:
        """The opened file that the image of the pair `key`, a global id, was made of; None where it is not kept."""

        def answer(state: State) -> Original | None:
            if state.everything is None:
                return None
            (row,) = state.everything.rows([key])
            return None if row is None else state.everything.original(row)

        return self._on_state(answer)

    def insert(
        self, name: str, items: Iterable[Item | Pair | Rejection], **said: str
    ) -> tuple[Manifest, list[Rejection]]:
        """Take pairs; when this returns, the next query finds them.

        Args:
            name: of the data set of uploaded pairs.
            items: what is taken; a pair is one that was checked before.
            said: `licence` and `attribution` of items that name none.

        Returns:
            See `KnowledgeBase.insert`.
        """
        with self._writing:
            taken = self.kb.insert(name, items, **said)
        self._renew()
        return taken

    def close(self) -> None:
        """End the processes that decode pictures."""
        self.pictures.close()

    def checked(self, name: str, item: Item) -> Pair | Rejection:
        """The pair that an `item` would become in the data set `name`, or why it would not.

        Raises:
            ConfigError: the data set's name is none.
        """
        size = self.kb.config.corpus.image_size
        return to_pair(
            item,
            data_set=check_name(name),
            size=size,
            licence=UNKNOWN,
            attribution=UNKNOWN,
            decode=self.pictures.checked,
        )

    def num_pairs(self, name: str) -> int:
        """Number of pairs of the data set `name`, 0 where there is none."""
        return self.kb.info(name).num_pairs if name in self.state.names else 0

    def data_sets(self) -> list[dict[str, Any]]:
        """What each data set says of its pairs, and whether it can be searched; nothing of where it or they lie."""
        described = []
        for listed in self.kb.list():
            trouble = "cannot be searched; `rag-diffusion kb list` on the server says why" if listed.trouble else ""
            described.append({name: getattr(listed.manifest, name) for name in _PUBLIC} | {"trouble": trouble})
        return described

    def health(self) -> dict[str, Any]:
        """Whether it answers, and from how much; never waits for a state that is being opened."""
        state = self._state
        pairs = 0 if state.everything is None else len(state.everything)
        return {"status": "ok", "num_pairs": pairs, "data_sets": list(state.names)}

    def _on_state(self, answer: Callable[[State], Result]) -> Result:
        """What a state answers; a newer one where its files were replaced or removed under it."""
        for _ in range(_TRIES):
            state = self.state
            try:
                return answer(state)
            except (DataError, LineageError):
                if state.version == self.kb.catalogue.version():
                    raise
                self._renew()
        return answer(self.state)

    def _renew(self) -> None:
        """Open the present state, if it is not open yet."""
        with self._renewing:
            if self._state.version != self.kb.catalogue.version():
                self._state = self._opened()

    def _opened(self) -> State:
        """A state that is ready: no query waits for what is read at the first one."""
        state = State(self.kb)
        if state.everything is not None:
            state.everything.warm()
        return state

    def _pixels(self, request: KnnRequest) -> Pixels | None:
        """(H, W, 3) uint8 of a query's image."""
        if request.text is not None or (request.image is None and request.image_url is None):
            return None
        try:
            if request.image is not None:
                content = decode_base64(request.image, "image", MAX_IMAGE_BYTES)
            else:
                limits = DownloadLimits(max_bytes=MAX_IMAGE_BYTES, allow_hosts=self._allow_hosts)
                with Deadline(FETCH_SECONDS) as deadline:
                    content = get(str(request.image_url), deadline, limits)
            return np.asarray(self.pictures.checked(content, "image", self.kb.config.corpus.image_size))
        except DataError as error:
            raise QueryError(str(error)) from None


def uploaded_name(image: bytes, caption: str) -> str:
    """A name for an uploaded pair that has none, made of `image` and `caption`: the same one does not come twice."""
    return hashlib.sha256(image + b"\0" + caption.encode("utf-8", "surrogatepass")).hexdigest()[:24]
