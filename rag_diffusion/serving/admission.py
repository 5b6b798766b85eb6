"""What the endpoints share: how many requests of each kind are admitted, JSON bodies, and URLs of images."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from rag_diffusion.serving.admission_queue import AdmissionQueue
from rag_diffusion.serving.bounded_json import parse_object
from rag_diffusion.serving.memory import give_back
from rag_diffusion.serving.request_bodies import MEBIBYTE, received

SEARCHES = max(4, 2 * (os.cpu_count() or 1))  # at a time; more make each other wait
FETCHES = 8  # queries that wait for another machine
UPLOAD_SECONDS = 600.0  # that an upload waits; it was sent already
UPLOADS = 4  # so that those which wait for another writer take no turn from searches

Query = TypeVar("Query")


@dataclass(frozen=True)
class Admission:
    """A queue of requests for each kind of work.

    Attributes:
        search: queries, and whatever else is read.
        fetch: queries whose image lies elsewhere.
        upload: uploads.
        heavy: bodies beyond 1 MiB that are parsed and worked on, at every endpoint together.
        light: what must answer whatever goes on.
    """

    search: AdmissionQueue = field(default_factory=lambda: AdmissionQueue(SEARCHES))
    fetch: AdmissionQueue = field(default_factory=lambda: AdmissionQueue(FETCHES))
    upload: AdmissionQueue = field(default_factory=lambda: AdmissionQueue(UPLOADS, seconds=UPLOAD_SECONDS))
    heavy: AdmissionQueue = field(default_factory=lambda: AdmissionQueue(2))
    light: AdmissionQueue = field(default_factory=lambda: AdmissionQueue(4))

    @asynccontextmanager
    async def admit_body(self, size: int) -> AsyncIterator[None]:
        """Hold a turn of `heavy` while a body of `size` bytes is worked on, if it is beyond 1 MiB.

        Raises:
            BodyError: there is no turn.
        """
        if size <= MEBIBYTE:
            yield
            return
        try:
            async with self.heavy.turn():
                yield
        finally:
            give_back()

    async def answer_json(
        self,
        request: Request,
        fields: Mapping[str, int],
        check: Callable[[dict[str, Any]], Query],
        queue: Callable[[Query], AdmissionQueue],
        compute: Callable[[Query], Any],
    ) -> JSONResponse:
        """Answer a JSON body.

        Args:
            request: with the body.
            fields: see `parse_object`; a field `image` is base64.
            check: makes the query of the body's fields.
            queue: the queue in which a query waits.
            compute: makes the answer to a query, of JSON values; runs in a thread.

        Raises:
            BodyError: it is no such body, or there is no turn.
        """
        with await received(request) as body:
            size = body.tell()
            body.seek(0)
            async with self.admit_body(size):
                parsing = self.search if size > MEBIBYTE else self.light
                query = await parsing.run(lambda: check(parse_object(body.read(), fields, ascii_alone="image")))
                return await queue(query).answer(lambda: compute(query))


def image_url(request: Request) -> Callable[[int], str]:
    """What gives the URL of a global id's image, at the name by which the `request` calls this server."""
    base = str(request.base_url)
    return lambda key: f"{base}images/{key}"
