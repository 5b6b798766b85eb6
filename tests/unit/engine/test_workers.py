"""Units by workers of a cluster: in order, each once, also where workers, nodes and files fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag_diffusion.config import RayConfig
from rag_diffusion.engine.cluster import engine_of
from rag_diffusion.errors import ConfigError, DataError, LineageError, ModelError
from tests.unit.engine.nodes import STORE_BYTES
from tests.unit.engine.works import Damaged, Dying, Large, OnlyOn, Squares, nodes_of

if TYPE_CHECKING:
    from rag_diffusion.engine.workers import RayEngine


def test_results_come_in_order_from_every_node(engine: RayEngine, marks: Path) -> None:
    assert list(engine.map(Squares(marks, 2), list(range(12)))) == [number * number for number in range(12)]
    assert len(nodes_of(marks)) == 2
    assert [path.read_text().count("\n") for path in marks.iterdir()] == [1] * 12


def test_nothing_to_do_asks_nobody(engine: RayEngine, marks: Path) -> None:
    assert list(engine.map(Squares(marks, 1), [])) == []


def test_a_stream_is_read_a_little_ahead(engine: RayEngine, marks: Path) -> None:
    read, ahead = list[int](), list[int]()

    def stream() -> Iterator[int]:
        for number in range(60):
            read.append(number)
            yield number

    for given, result in enumerate(engine.map(Squares(marks, 1), stream()), start=1):
        assert result == (given - 1) ** 2
        ahead.append(len(read) - given)
    assert len(ahead) == 60
    assert 0 < max(ahead) <= 4 * 2, "four units for each of two workers"


def test_what_came_before_the_error_of_a_stream_is_done(engine: RayEngine, marks: Path) -> None:
    def stream() -> Iterator[int]:
        yield from range(5)
        raise DataError("expected a sixth, got a damaged file")

    results = list[int]()
    with pytest.raises(DataError, match="expected a sixth"):
        results.extend(engine.map(Squares(marks, 1), stream()))
    assert results == [0, 1, 4, 9, 16]


def test_a_unit_whose_worker_dies_is_done_by_another(
    engine: RayEngine, marks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert list(engine.map(Dying(marks, 1), list(range(8)))) == [-number for number in range(8)]
    assert "unit 4 is given to another worker" in caplog.text
    assert "is gone: " in caplog.text


def test_a_unit_that_kills_every_worker_is_told(engine: RayEngine, marks: Path) -> None:
    with pytest.raises(ModelError, match=r"unit 4 .*but 3 workers died of it.*raise ray.cpus_per_worker"):
        list(engine.map(Dying(marks, 9), list(range(5))))
    assert len(list(marks.iterdir())) == 3


def test_a_node_with_old_files_is_told_and_left_out(
    engine: RayEngine, marks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    node = ray.get_runtime_context().get_node_id()
    with caplog.at_level(logging.WARNING):
        assert set(engine.map(OnlyOn(node, marks), list(range(4)))) == {node}
    assert "a worker cannot do this work, others have to: data/corpus: expected hash new, got old" in caplog.text
    with pytest.raises(LineageError, match="data/corpus: expected hash new, got old"):
        list(engine.map(OnlyOn(None, marks), list(range(4))))


def test_the_error_of_a_unit_is_raised_here(engine: RayEngine) -> None:
    with pytest.raises(DataError, match="expected a shard, got no file"):
        list(engine.map(Damaged(), list(range(6))))


def test_results_may_be_larger_than_the_store(engine: RayEngine) -> None:
    results = engine.map(Large(STORE_BYTES // 5), list(range(12)))
    assert [int(result[-1]) for result in results] == list(range(12))


def test_workers_that_fit_on_no_machine_are_told(ray_config: RayConfig, marks: Path) -> None:
    from rag_diffusion.engine.workers import RayEngine

    wanted = RayEngine(ray_config.model_copy(update={"gpus_per_worker": 1.0}))
    with pytest.raises(ConfigError, match="expected a machine with 1 cores and 1 GPUs for a worker, got 1 cores and 0"):
        list(wanted.map(Squares(marks, 1), [1]))


def test_workers_of_other_settings_give_their_room_back(engine: RayEngine, ray_config: RayConfig, marks: Path) -> None:
    assert list(engine.map(Squares(marks, 2), list(range(4)))) == [0, 1, 4, 9]  # on all cores
    other = engine_of(ray_config.model_copy(update={"workers": 1}))
    assert other is not engine
    assert list(other.map(Squares(marks, 1), [5])) == [25]
    assert engine_of(ray_config) is not engine
