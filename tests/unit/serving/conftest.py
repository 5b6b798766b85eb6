"""A queue that draws, opened once for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def once() -> Iterator[dict[str, Any]]:
    """What is opened once for all tests here, by name."""
    found: dict[str, Any] = {}
    yield found
    if "queue" in found:
        found["queue"].close()
