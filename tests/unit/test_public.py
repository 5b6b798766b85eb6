"""The names that `rag_diffusion` itself offers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rag_diffusion

HEAVY = ("torch", "diffusers", "transformers", "faiss", "pandas", "dagster", "dvc", "mlflow")


def loaded(code: str) -> list[str]:
    """Which heavy packages a program has loaded at its end."""
    told = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(rag_diffusion, name).__name__ == name for name in rag_diffusion.__all__)
    assert set(rag_diffusion.__all__) <= set(dir(rag_diffusion))
    with pytest.raises(AttributeError, match="no attribute 'RetrievalPipelines'"):
        _ = rag_diffusion.RetrievalPipelines  # type: ignore[attr-defined]


def test_the_package_loads_nothing_and_the_sampler_neither_search_nor_orchestration() -> None:
    assert loaded("import rag_diffusion") == []
    assert not {"faiss", "dagster", "dvc", "mlflow"} & set(loaded("from rag_diffusion import RetrievalPipeline"))
