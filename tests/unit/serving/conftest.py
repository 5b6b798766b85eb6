"""A queue that draws, opened once for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rag_diffusion.models.generator import Generator
from rag_diffusion.serving.drawing_queue import Counts, DrawingQueue
from tests.unit.serving.drawing_server import drawing_server, queue_once


@pytest.fixture(scope="module")
def once() -> Iterator[dict[str, Any]]:
    """What is opened once for all tests here, by name."""
    found: dict[str, Any] = {}
    yield found
    if "queue" in found:
        found["queue"].close()


@pytest.fixture
def queue(
    once: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, project_root: Path, tiny_generator: Generator
) -> DrawingQueue:
    """Batches of 4, 4 may wait; nothing is counted yet."""
    found = queue_once(once, tmp_path_factory, project_root, tiny_generator, batch=4, waiting=4)
    found.counts = Counts()
    return found


@pytest.fixture
def client(queue: DrawingQueue) -> Iterator[TestClient]:
    with drawing_server(queue) as found:
        yield found
