"""A tracker that keeps what is logged."""

from __future__ import annotations

from collections.abc import Mapping

from PIL.Image import Image

from rag_diffusion.tracking import NullTracker


class RecordingTracker(NullTracker):
    """Metrics and sizes of images by step."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[str, int | None, tuple[int, int]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_image(self, image: Image, name: str, step: int | None = None) -> None:
        self.images.append((name, step, image.size))
