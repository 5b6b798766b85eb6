"""The doors that draw are asked what their schema allows and what it does not, and its examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from rag_diffusion.models.generator import Generator
from rag_diffusion.serving.drawing_queue import DrawingQueue
from rag_diffusion.serving.server import Access, create_app
from tests.unit.serving.conformance import CHECKS
from tests.unit.serving.drawing_server import drawing_server, picture, queue_once

DOORS = {
    "/draw": "post", "/v1/images/generations": "post", "/v1/images/edits": "post", "/v1/images/variations": "post",
    "/v1/models": "get", "/v1/models/{name}": "get", "/v1/images/files/{name}": "get",
}  # fmt: skip


@pytest.fixture
def queue(
    once: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, project_root: Path, tiny_generator: Generator
) -> DrawingQueue:
    """One picture may wait, so that no example draws many."""
    return queue_once(once, tmp_path_factory, project_root, tiny_generator, batch=1, waiting=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as told", "otherwise"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_that_draws_answers_as_its_schema_says(
    once: dict[str, Any], queue: DrawingQueue, door: str, mode: GenerationMode
) -> None:
    if "api" not in once:
        app = create_app(queue.base, Access(), drawing=queue)
        once["api"] = schemathesis.openapi.from_asgi("/openapi.json", app)
    operation = once["api"][door][DOORS[door]]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        pytest.skip("nothing can be wrong with it")

    @settings(max_examples=6, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=list(CHECKS), timeout=200)

    ask()


def test_the_examples_are_drawn(queue: DrawingQueue) -> None:
    with drawing_server(queue) as client:
        told = client.get("/openapi.json").json()["paths"]
        assert {path: next(iter(told[path])) for path in DOORS} == DOORS
        for path in list(DOORS)[:4]:
            ((kind, body),) = told[path]["post"]["requestBody"]["content"].items()
            example = body["example"] | {"num_inference_steps": 1} | ({"n": 1} if "n" in body["example"] else {})
            form = {"files": {"image": picture()}, "data": {name: str(value) for name, value in example.items()}}
            answer = client.post(path, **({"json": example} if kind == "application/json" else form))
            assert answer.status_code == 200, (path, answer.text)
