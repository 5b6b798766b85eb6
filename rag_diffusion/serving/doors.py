"""What the doors of the server share: turns of each kind of work, JSON bodies, and addresses of images."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from rag_diffusion.serving.bodies import MEBIBYTE, received
from rag_diffusion.serving.memory import give_back
from rag_diffusion.serving.outline import parse_object
from rag_diffusion.serving.turns import Turns

SEARCHES = max(4, 2 * (os.cpu_count() or 1))  # at a time; more make each other wait
FETCHES = 8  # queries that wait for another machine
UPLOAD_SECONDS = 600.0  # that an upload waits; it was sent already
UPLOADS = 4  # so that those which wait for another writer take no turn from searches

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Doors:
    """Turns of each kind of work.

    Attributes:
        searching: queries, and whatever else is read.
        fetching: queries whose image lies elsewhere.
        taking: uploads.
        heavy: bodies beyond 1 MiB that are parsed and worked on, at every door together.
        light: what must answer whatever goes on.
    """

    searching: Turns = field(default_factory=lambda: Turns(SEARCHES))
    fetching: Turns = field(default_factory=lambda: Turns(FETCHES))
    taking: Turns = field(default_factory=lambda: Turns(UPLOADS, seconds=UPLOAD_SECONDS))
    heavy: Turns = field(default_factory=lambda: Turns(2))
    light: Turns = field(default_factory=lambda: Turns(4))

    @asynccontextmanager
    async def weighed(self, size: int) -> AsyncIterator[None]:
        """A turn of the heavy ones for a body of so many bytes, if it is one of them."""
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
        check: Callable[[dict[str, Any]], Asked],
        turns: Callable[[Asked], Turns],
        compute: Callable[[Asked], Any],
    ) -> JSONResponse:
        """Answer a JSON body.

        Args:
            request: with the body.
            fields: see `parse_object`; a field `image` is base64.
            check: what is asked.
            turns: whose turn it is then.
            compute: the answer.

        Raises:
            BodyError: it is no such body, or there is no turn.
        """
        with await received(request) as body:
            size = body.tell()
            body.seek(0)
            async with self.weighed(size):
                parsing = self.searching if size > MEBIBYTE else self.light
                asked = await parsing.run(lambda: check(parse_object(body.read(), fields, ascii_alone="image")))
                return await turns(asked).answer(lambda: compute(asked))


def url_of(request: Request) -> Callable[[int], str]:
    """Where this server shows the image of a global id, as its client names the server."""
    base = str(request.base_url)
    return lambda key: f"{base}images/{key}"
