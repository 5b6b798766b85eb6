"""The small corpus, and what every test can rely on."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.store.corpus import Corpus, write_corpus
from tests.tiny import STYLES, tiny_pairs


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what the modules have made: 700,000 objects, .4 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_store_of_others() -> Iterator[None]:
    """No test writes into the user's store, nor into that of the test before: MLflow itself sets the variable."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let the programs under test hear SIGINT, also where a shell started the tests in the background without it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from more threads, and lose much where cores are busy."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of 420 pairs below <root>/data/corpus; `tiny_corpus.path.parents[1]` is the root."""
    path = tmp_path_factory.mktemp("project") / "data" / "corpus"
    facts = {
        "rejected": [],
        "kind": "iconify",
        "style_words": {style: style for style in STYLES},
        "kinds": {pair.entity: "shape" for pair in tiny_pairs()},
    }
    write_corpus(path, tiny_pairs(), image_size=64, facts=facts)
    return Corpus.open(path)


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]
