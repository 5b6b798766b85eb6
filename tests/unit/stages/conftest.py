"""Scores of the small corpus."""

from __future__ import annotations

import pytest

from rag_diffusion.metrics.report import LEAST


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve prompts stand for the hundred of a real run; test_report has the true least sizes."""
    for name in LEAST:
        monkeypatch.setitem(LEAST, name, 2)
