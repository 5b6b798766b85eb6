"""The queue of all pictures that a server draws: batches, bounds, who leaves, and errors that hit the right one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.studio import Picture, PictureRequest, draw_batch
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.drawing_queue import ALL, Drawing, DrawingQueue, Preview
from tests.tiny import draw
from tests.unit.page.opened import make_project, opened_project


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def queue(root: Path, project_root: Path, tiny_generator: Generator) -> Iterator[DrawingQueue]:
    """Batches of 4, 8 may wait."""
    found = DrawingQueue(root, opened_project(root, project_root, tiny_generator), batch=4, waiting=8)
    found.pipeline  # noqa: B018  # is there
    yield found
    found.close()


def asked(seed: int, steps: int = 2, prompt: str = "a red square in noto style", **changed: Any) -> PictureRequest:
    return PictureRequest(
        prompt=prompt,
        seed=seed,
        **({"variant": "retrieved", "num_neighbors": 2, "options": {"num_inference_steps": steps}} | changed),
    )


def held(queue: DrawingQueue) -> tuple[threading.Event, Drawing]:
    """A long drawing that waits at its first step, so that the others gather; and what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def stop(number: int, preview: Preview) -> None:
        begun.set()
        go_on.wait(60)

    (first,) = queue.submit([asked(0, steps=50, variant="none")], previews=ALL, tell=stop)
    assert begun.wait(60)
    return go_on, first


def test_pictures_that_fit_are_drawn_together_and_each_is_the_one_that_it_is_alone(queue: DrawingQueue) -> None:
    go_on, first = held(queue)
    given = [Neighbor(image=draw("moon", color, 0), caption=f"a {color} moon") for color in ("red", "blue")]
    by_hand = [asked(5 + row, variant="given", given=[one]) for row, one in enumerate(given)]
    requests = [asked(1), by_hand[0], asked(2, prompt="a green circle"), asked(3, steps=4), by_hand[1]]
    drawings = queue.submit(requests)
    queue.leave([first])
    go_on.set()
    pictures = [one.result.result(60) for one in drawings]

    assert sorted(queue.counts.batches.elements()) == [1, 1, 2, 2]  # the first one, and three kinds
    for request, picture in zip(requests, pictures, strict=True):
        (alone,) = draw_batch(queue.pipeline, [request])
        assert np.abs(picture.pixels.astype(int) - alone.pixels).max() <= 1
        assert [one.pair_id for one in picture.provenance.neighbors] == [
            one.pair_id for one in alone.provenance.neighbors
        ]
        assert picture.provenance.seed == request.seed


def test_no_more_than_a_batch_is_drawn_at_once_and_no_more_than_the_bound_waits(queue: DrawingQueue) -> None:
    go_on, first = held(queue)
    waiting = [queue.submit([asked(number)]) for number in range(6)]
    with pytest.raises(BodyError, match=r"at most 8 pictures to wait, got 6 that wait and 3 more") as refused:
        queue.submit([asked(number) for number in range(3)])
    assert (refused.value.status, queue.waiting) == (429, 6)
    assert refused.value.retry_after >= 1
    queue.leave([first])
    go_on.set()
    for (one,) in waiting:
        assert isinstance(one.result.result(60), Picture)
    assert sorted(queue.counts.batches.elements()) == [1, 2, 4]
    assert (queue.counts.refused, queue.counts.left, queue.counts.drawn, queue.waiting) == (3, 1, 6, 0)


def test_who_leaves_is_drawn_for_no_further(queue: DrawingQueue) -> None:
    go_on, first = held(queue)
    calls = list[int]()
    hook = queue.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    waits, alone = queue.submit([asked(1, steps=500), asked(2, steps=1)])
    queue.leave([first, waits])
    assert (queue.waiting, waits.result.cancelled()) == (1, True)
    go_on.set()
    assert isinstance(alone.result.result(60), Picture)
    hook.remove()
    assert first.result.cancelled()
    assert len(calls) <= 6  # of 50 and 500 steps


def test_a_picture_of_a_batch_that_others_wait_for_is_drawn_for_them(queue: DrawingQueue) -> None:
    go_on, first = held(queue)
    leaves, stays = queue.submit([asked(1, steps=20), asked(2, steps=20)], previews=ALL)
    seen = threading.Event()
    stays.tell = lambda preview: seen.set()
    queue.leave([first])
    go_on.set()
    assert seen.wait(60)
    queue.leave([leaves])
    assert isinstance(stays.result.result(60), Picture)


def test_an_error_hits_whom_it_belongs_to(queue: DrawingQueue) -> None:
    go_on, first = held(queue)
    good, wrong, other = queue.submit([asked(1), asked(2, prompt=" "), asked(3)])
    queue.leave([first])
    go_on.set()
    assert isinstance(good.result.result(60), Picture)
    assert isinstance(other.result.result(60), Picture)
    with pytest.raises(ValueError, match="expected a text to retrieve with"):
        wrong.result.result(60)
    assert queue.counts.failed == 1


@pytest.mark.parametrize(("previews", "steps"), [(0, []), (1, [2]), (3, [1, 2, 3]), (ALL, [1, 2, 3, 4])])
def test_previews_are_spread_over_the_steps(queue: DrawingQueue, previews: int, steps: list[int]) -> None:
    told = list[tuple[int, Preview]]()
    drawings = queue.submit(
        [asked(1, steps=4), asked(2, steps=4)], previews=previews, tell=lambda number, one: told.append((number, one))
    )
    pictures = [one.result.result(60) for one in drawings]
    for number in range(2):
        mine = [preview for who, preview in told if who == number]
        assert [preview.step for preview in mine] == steps
        if previews == ALL:
            assert np.abs(mine[-1].pixels.astype(int) - pictures[number].pixels).max() <= 1


def test_without_weights_every_picture_says_so(tmp_path: Path, project_root: Path, tiny_generator: Generator) -> None:
    base = make_project(tmp_path, project_root, tiny_generator, with_sets=False)
    queue = DrawingQueue(tmp_path, base, str(tmp_path / "nothing"))
    (drawing,) = queue.submit([asked(1, variant="none")])
    with pytest.raises(Exception, match="nothing"):
        drawing.result.result(60)
    assert not queue.ready
    queue.close()
    with pytest.raises(BodyError):
        queue.submit([asked(1)])
