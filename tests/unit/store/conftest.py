from __future__ import annotations

from tests.unit.retrieval.conftest import corpus, folder

__all__ = ["corpus", "folder"]
