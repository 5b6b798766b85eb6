"""Who is answered when: so many at a time, the others in the order they came, and those for whom it is full later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.responses import JSONResponse

from rag_diffusion.serving.bounded_json import BodyError

WAITING = 512  # requests in a queue
SECONDS = 30.0  # that one waits there
AGAIN = 5  # seconds after which those who are refused are asked to come again

Result = TypeVar("Result")


class AdmissionQueue:
    """A bounded queue of requests before threads that work on them.

    Args:
        running: at a time.
        waiting: those that wait for them.
        seconds: that one waits; `SECONDS` where it is None.
    """

    def __init__(self, running: int, waiting: int = WAITING, seconds: float | None = None) -> None:
        self.running, self.waiting, self._seconds = running, waiting, seconds
        self._queue, self._threads = CapacityLimiter(running), CapacityLimiter(running)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; a request whose client left does not wait any more.

        Raises:
            BodyError: too many wait already, or it took too long.
        """
        ahead = self._queue.statistics().tasks_waiting
        if ahead >= self.waiting:
            raise BodyError(429, f"expected at most {self.waiting} requests to wait, got one more; come again", AGAIN)
        token, seconds = object(), SECONDS if self._seconds is None else self._seconds
        try:
            with anyio.fail_after(seconds):
                await self._queue.acquire_on_behalf_of(token)
        except TimeoutError:
            raise BodyError(429, f"expected a turn within {seconds:g} s, got none; come again", AGAIN) from None
        try:
            yield
        finally:
            self._queue.release_on_behalf_of(token)

    async def run(self, compute: Callable[[], Result]) -> Result:
        """Call `compute` in a thread once it is its turn; what it returns.

        Raises:
            BodyError: see `turn`.
        """
        async with self.turn():
            return await to_thread.run_sync(compute, limiter=self._threads)

    async def answer(self, compute: Callable[[], Any], status: int = 200) -> JSONResponse:
        """As `run`, with a JSON response.

        Args:
            compute: returns JSON values.
            status: of the response.
        """
        return await self.run(lambda: JSONResponse(compute(), status))
