"""A small project with a model and two data sets, and its server with the doors that draw."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.models.generator import Generator
from rag_diffusion.serving.drawing_queue import DrawingQueue
from rag_diffusion.serving.server import Access, create_app
from tests.tiny import draw
from tests.unit.page.opened import make_project

PROMPT = "a red square in noto style"
QUICK = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 2, "num_neighbors": 2}
URL = "http://127.0.0.1"


def open_queue(root: Path, project_root: Path, generator: Generator, **bounds: int) -> DrawingQueue:
    """The queue of a project in `root`, which is made at the first call; its model is open."""
    made = (root / "params.yaml").exists()
    base = KnowledgeBase.open(root) if made else make_project(root, project_root, generator)
    queue = DrawingQueue(root, base, **bounds)
    queue.pipeline  # noqa: B018  # is there
    return queue


def queue_once(
    once: dict[str, Any], folders: pytest.TempPathFactory, project_root: Path, generator: Generator, **bounds: int
) -> DrawingQueue:
    """The queue of a module's tests, which the fixture `once` closes."""
    if "queue" not in once:
        once["queue"] = open_queue(folders.mktemp("project"), project_root, generator, **bounds)
    found: DrawingQueue = once["queue"]
    return found


@contextmanager
def drawing_server(queue: DrawingQueue, **access: Any) -> Iterator[TestClient]:
    """Its server."""
    app = create_app(queue.base, Access(**access), drawing=queue)
    with TestClient(app, base_url=URL, raise_server_exceptions=False) as client:
        yield client


def picture(color: str = "red", shape: str = "moon", kind: str = "PNG") -> bytes:
    """A file of a picture."""
    buffer = io.BytesIO()
    draw(shape, color, 0).save(buffer, format=kind)
    return buffer.getvalue()


def opened(text: str) -> Image.Image:
    """The picture that a text in base64 holds."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def generated(client: TestClient, **changed: Any) -> dict[str, Any]:
    answer = client.post("/v1/images/generations", json=QUICK | changed)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
