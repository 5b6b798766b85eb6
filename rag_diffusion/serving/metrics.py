"""What the server has done, in Prometheus' text format at `/metrics`: requests, the drawing queue, its own process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from rag_diffusion.serving.drawing_queue import DrawingQueue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"  # whatever no door answers, so that nobody makes up labels
_PREFIX = "rag_diffusion"
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)  # bounds of the histogram
_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")


class Metrics:
    """Counts of one server.

    Args:
        queue: that draws; None where nothing does.
    """

    def __init__(self, queue: DrawingQueue | None = None) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "path"]
        self.requests = Counter(f"{_PREFIX}_requests", "Requests.", [*labels, "status"], registry=self._registry)
        self.seconds = Histogram(
            f"{_PREFIX}_request_seconds", "Until the end of the answer.", labels, buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        ProcessCollector(registry=self._registry)
        if queue is not None:
            self._registry.register(_Drawing(queue))

    def text(self) -> bytes:
        """All of them, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Drawing(Collector):
    """What a drawing queue counts, read when it is asked for."""

    def __init__(self, queue: DrawingQueue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """Each by its name."""
        queue, counts = self._queue, self._queue.counts
        yield GaugeMetricFamily(f"{_PREFIX}_pictures_waiting", "Pictures that wait to be drawn.", queue.waiting)
        yield GaugeMetricFamily(f"{_PREFIX}_pictures_drawing", "Pictures that are drawn now.", queue.drawing)
        yield GaugeMetricFamily(f"{_PREFIX}_pictures_waiting_most", "Pictures that may wait.", queue.most)
        yield GaugeMetricFamily(f"{_PREFIX}_model_ready", "Whether the model is open.", int(queue.ready))
        pictures = CounterMetricFamily(f"{_PREFIX}_pictures", "Pictures, by what became of them.", labels=["end"])
        for name in ("drawn", "failed", "left", "refused"):
            pictures.add_metric([name], getattr(counts, name))
        yield pictures
        yield CounterMetricFamily(f"{_PREFIX}_drawing_seconds", "That batches took.", counts.seconds)
        sizes, below = dict(counts.batches), 0
        buckets = []
        for bound in range(1, queue.batch + 1):
            below += sizes.get(bound, 0)
            buckets.append((str(float(bound)), below))
        total = sum(size * number for size, number in sizes.items())
        yield HistogramMetricFamily(
            f"{_PREFIX}_batch_pictures", "Pictures of a batch.", [*buckets, ("+Inf", sum(sizes.values()))], total
        )


class Measured:
    """ASGI middleware that counts every request.

    Args:
        app: what is called.
        metrics: count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 499  # where the client left before an answer

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else OTHER
            path = getattr(scope.get("route"), "path", None) or OTHER
            self._metrics.requests.labels(method, path, str(status)).inc()
            self._metrics.seconds.labels(method, path).observe(time.monotonic() - begun)
