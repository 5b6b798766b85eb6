"""Searches of a query on several cores."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from threading import Barrier, get_ident

import numpy as np
import pytest

from rag_diffusion.retrieval import side_by_side as module
from rag_diffusion.retrieval.ann import Exhaustive
from rag_diffusion.retrieval.side_by_side import side_by_side
from rag_diffusion.retrieval.stacked import StackedIndex
from tests.unit.retrieval.made_vectors import made_vectors


def test_calls_run_at_the_same_time_and_come_in_their_order() -> None:
    met = Barrier(2, timeout=30)

    def call(number: int) -> tuple[int, int]:
        met.wait()  # until the other one is there
        return number, get_ident()

    results = side_by_side([partial(call, number) for number in range(2)])
    assert [number for number, _ in results] == [0, 1]
    assert len({thread for _, thread in results}) == 2
    assert side_by_side([]) == []


def test_calls_within_calls_end_also_where_all_threads_are_busy() -> None:
    def within(number: int) -> list[int]:
        return side_by_side([partial(int, number)] * 3)

    many = 4 * module._POOL._max_workers + 8
    assert side_by_side([partial(within, number) for number in range(many)]) == [[number] * 3 for number in range(many)]


def test_an_error_of_any_call_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        side_by_side([lambda: 1, lambda: 1 // 0])


def test_a_thread_that_outlives_the_main_one_still_searches() -> None:
    code = """
import threading, time
from rag_diffusion.retrieval.side_by_side import side_by_side

def later():
    threading.main_thread().join()
    time.sleep(0.2)
    print(side_by_side([lambda: 1, lambda: 2]))

threading.Thread(target=later).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2]", done.stderr


def test_one_query_finds_what_it_finds_among_others() -> None:
    image = np.asarray(made_vectors(900).image)
    stacked = StackedIndex([Exhaustive(image[:300]), Exhaustive(image[300:700]), Exhaustive(image[700:])])
    scores, rows = stacked.search(image[:5], 20)
    for number in range(5):
        own = stacked.search(image[number : number + 1], 20)
        np.testing.assert_array_equal(own[1][0], rows[number])
        np.testing.assert_allclose(own[0][0], scores[number], atol=1e-6)
