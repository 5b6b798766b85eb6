"""A data set that another machine holds: searched there by text, its images fetched, checked and cached here.

Asks any server of clip-retrieval's protocol, its own or ours. Whatever such a machine does - hang, drip, lie about a
size, point to a private address, send HTML, a bomb or nonsense - a query ends at its deadline, keeps what was good, and
says what was not.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rag_diffusion.clip_protocol import INDICES, KNN, MAX_IMAGE_BYTES, MAX_IMAGES, MAX_TEXT, decode_base64, text_query
from rag_diffusion.errors import DataError, RagDiffusionError, RemoteError
from rag_diffusion.guarded_http.deadline import Deadline
from rag_diffusion.guarded_http.download import JSON_TYPES, DownloadLimits, get, parse_json, post_json
from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.knowledge.remote.image_cache import ImageCache
from rag_diffusion.knowledge.remote.results import KnnResult, parse_indices, parse_results
from rag_diffusion.readers.images import ImageError, decode, encode_png, to_square
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.retrieval.query import DEADLINE
from rag_diffusion.store.manifest import Manifest

WORKERS = 16  # requests at a time
MAX_ANSWER = 2**26  # bytes of JSON
MAX_QUERY_BYTES = 2**28  # bytes of all images of a query

_DECODING = threading.BoundedSemaphore(2)  # a picture within its limits may still take 200 MB and a second


@dataclass(frozen=True, kw_only=True)
class RemoteHit:
    """One candidate of a remote; its image was decoded once and is whole.

    Attributes:
        item: named by the remote's id.
        score: the remote's own similarity, the best over the queries that it answers.
        queries: rows of those queries.
    """

    item: Item
    score: float
    queries: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RemoteResults:
    """What came in time.

    Attributes:
        items: best first, ties by name; each once, whatever the number of queries.
        trouble: what went wrong, in words; empty where all went well.
        rejections: results that were not taken, each with its reason.
    """

    items: list[RemoteHit]
    trouble: str
    rejections: tuple[Rejection, ...] = ()


class RemoteSource:
    """Searches one remote. Safe among threads.

    Args:
        manifest: of the data set: `url` of the server, with or without `/knn-service`; its `index`, empty for the
            server's first; `allow_hosts` that may have a private address, of the server or of its images.
        cache: of its images; None fetches them every time.
        size: side of the square that a picture is scaled into as soon as it is decoded; None leaves it as it came.
    """

    def __init__(self, manifest: Manifest, cache: ImageCache | None = None, *, size: int | None = None) -> None:
        self.name, self._manifest, self._cache, self._size = manifest.name, manifest, cache, size

    @classmethod
    def open(cls, folders: DataSetFolders, manifest: Manifest, *, size: int | None = None) -> RemoteSource:
        """Open a remote data set of a knowledge base; its images are cached until it is removed.

        Args:
            folders: of the knowledge base.
            manifest: of the data set.
            size: see the class.
        """
        path = folders.manifest(manifest.name)

        def wanted() -> bool:
            try:
                return Manifest.read(path) == manifest
            except RagDiffusionError:
                return False

        return cls(manifest, ImageCache(folders.cache(manifest.name), wanted=wanted), size=size)

    def indices(self, deadline: float = DEADLINE) -> list[str]:
        """Names of the server's indexes, within `deadline` seconds; also the way to see whether it is one.

        Raises:
            RemoteError: it does not answer, or not as the protocol says.
        """
        url = self._endpoint(INDICES)
        with Deadline(deadline) as until:
            content = get(url, until, self._limits(MAX_ANSWER), kinds=JSON_TYPES)
        try:
            names = parse_indices(parse_json(content, url))
        except DataError as error:
            raise RemoteError(f"{url}: {error}; is this a server of clip-retrieval's protocol?") from None
        if self._manifest.index and self._manifest.index not in names:
            raise RemoteError(f"{url}: expected an index {self._manifest.index!r}, got {', '.join(names)}"[:1000])
        return names

    def find(
        self, queries: Sequence[str], *, top_k: int, deadline: float = DEADLINE, where: Mapping[str, Any] | None = None
    ) -> RemoteResults:
        """The remote's best images of some texts; never raises for what the remote does.

        Args:
            queries: texts.
            top_k: results asked for, for each of them.
            deadline: seconds for everything, images included.
            where: as in `KnnRequest`, what may come; servers that are not ours do not know it, so filter again.

        Returns:
            What came in time.
        """
        top_k = min(top_k, MAX_IMAGES)
        filters = {"where": where} if where else {}
        with Deadline(deadline) as until, ThreadPoolExecutor(WORKERS) as pool:
            answers = list(pool.map(lambda query: self._ask(query, top_k, until, filters), queries))
            wanted, rejections = _together(answers)
            budget = _ByteBudget(MAX_QUERY_BYTES)
            items = list(pool.map(lambda pair: self._item(pair[0], until, budget), wanted))
        hits = [
            RemoteHit(item=item, score=answer.similarity, queries=rows)
            for item, (answer, rows) in zip(items, wanted, strict=True)
            if isinstance(item, Item)
        ]
        rejections += [item for item in items if isinstance(item, Rejection)]
        failed = [answer for answer in answers if isinstance(answer, str)]
        return RemoteResults(
            items=sorted(hits, key=lambda hit: (-hit.score, hit.item.name)),
            trouble=self._trouble(failed, len(queries), rejections, len(hits)),
            rejections=tuple(rejections),
        )

    def _ask(
        self, query: str, top_k: int, until: Deadline, filters: Mapping[str, Any]
    ) -> list[KnnResult | Rejection] | str:
        """Checked results of one query, or why there are none."""
        url = self._endpoint(KNN)
        message = text_query(query[:MAX_TEXT], index=self._manifest.index or None, top_k=top_k) | dict(filters)
        try:
            return list(parse_results(post_json(url, message, until, self._limits(MAX_ANSWER)), top_k))
        except RemoteError as error:
            return _plain(str(error))
        except DataError as error:
            return _plain(f"{url}: {error}")

    def _item(self, answer: KnnResult, until: Deadline, budget: _ByteBudget) -> Item | Rejection:
        """The result with its image, decoded once to see that it is one."""
        what = _plain(answer.url or str(answer.key))
        try:
            content = decode_base64(answer.image, what, MAX_IMAGE_BYTES) if answer.image else None
            kept = None if content is not None or self._cache is None else self._cache.get(answer.url)
            content = content or kept or get(answer.url, until, self._limits(MAX_IMAGE_BYTES))
            budget.take(len(content), what)
            with _DECODING:
                if not until.left:
                    raise RemoteError(f"{what}: expected a checked image within {until.seconds:g} s, got none in time")
                square = to_square(decode(content, what, side=self._size or 1), self._size or 1)
        except RemoteError as error:
            return Rejection(what=what, reason=_plain(f"image not fetched: {error}"))
        except ImageError as error:
            return Rejection(what=what, reason=error.reason)
        except DataError as error:
            return Rejection(what=what, reason=str(error))
        if not (answer.image or kept or self._cache is None):
            with suppress(OSError, DataError):  # a full disk makes the next query slower, and this one no worse
                self._cache.put(answer.url, content)
        image = content if self._size is None else encode_png(square)
        return Item(name=str(answer.key), image=image, caption=answer.caption, url=answer.url, side=0, **answer.words)

    def _endpoint(self, service: str) -> str:
        return f"{self._manifest.url.rstrip('/').removesuffix('/' + KNN).rstrip('/')}/{service}"

    def _limits(self, most: int) -> DownloadLimits:
        return DownloadLimits(max_bytes=most, allow_hosts=self._manifest.allow_hosts)

    def _trouble(self, failed: Collection[str], num_queries: int, rejections: Collection[Rejection], taken: int) -> str:
        reasons = []
        if failed:
            first = next(iter(failed))
            reasons.append(
                first if num_queries == 1 else f"{len(failed)} of {num_queries} queries failed, e.g. {first}"
            )
        if rejections:
            first = next(iter(rejections)).reason
            reasons.append(f"{not_taken(rejections, taken)}; e.g. {first}")
        return f"remote {self.name}: {'; '.join(reasons)}" if reasons else ""


def find_everywhere(
    sources: Sequence[RemoteSource],
    queries: Sequence[str],
    *,
    top_k: int,
    deadline: float = DEADLINE,
    where: Mapping[str, Any] | None = None,
) -> dict[str, RemoteResults]:
    """What several remotes find, all asked at the same time.

    Args:
        sources: the remotes.
        queries: see `RemoteSource.find`, as all that follow.
        top_k: results asked for.
        deadline: seconds for everything.
        where: what may come.

    Returns:
        The answer of each, by its name: one that is dead or slow says so in its `trouble`.
    """
    if not sources:
        return {}
    with ThreadPoolExecutor(len(sources)) as pool:
        answers = pool.map(lambda source: source.find(queries, top_k=top_k, deadline=deadline, where=where), sources)
        return {source.name: answer for source, answer in zip(sources, answers, strict=True)}


def not_taken(rejections: Collection[Rejection], taken: int) -> str:
    """Say in words how many results were not taken, by kind.

    Args:
        rejections: results that were not taken.
        taken: number of those that were.
    """
    counts = Counter(rejection.kind for rejection in rejections)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    return f"{len(rejections)} of {taken + len(rejections)} results not taken: {kinds}"


def _plain(text: str) -> str:
    """What a remote said, for a terminal: on one line, without control characters, and not endless."""
    return "".join(char if char.isprintable() else "?" for char in text[:500])


class _ByteBudget:
    """Bytes that the images of one query may have together."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._lock = threading.Lock()

    def take(self, size: int, what: str) -> None:
        with self._lock:
            if size > self._left:
                raise DataError(
                    f"too large: {what} the images of one query expected at most {self._most} bytes, got more"
                )
            self._left -= size


def _together(
    answers: Sequence[list[KnnResult | Rejection] | str],
) -> tuple[list[tuple[KnnResult, tuple[int, ...]]], list[Rejection]]:
    """Each result once, with its best similarity and the rows of its queries; and what was not taken."""
    results: dict[int, tuple[KnnResult, tuple[int, ...]]] = {}
    rejections: list[Rejection] = []
    for row, entries in enumerate(answers):
        for entry in () if isinstance(entries, str) else entries:
            if isinstance(entry, Rejection):
                rejections.append(entry)
                continue
            known, rows = results.get(entry.key, (entry, ()))
            best = replace(known, similarity=max(known.similarity, entry.similarity))
            results[entry.key] = (best, (*rows, row))
    return list(results.values()), rejections
