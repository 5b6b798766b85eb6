"""The stage `embed` by workers of a cluster: the vectors of one process, also when a node is killed in the middle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rag_diffusion import layout
from rag_diffusion.config import Config, RayConfig
from rag_diffusion.errors import LineageError
from rag_diffusion.retrieval.spread import EmbedPairs, spread_vectors
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from tests.unit.engine.nodes import node_that_is_killed
from tests.unit.engine.projects import project_to_embed, run_embed

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from rag_diffusion.engine.workers import RayEngine


@pytest.fixture(scope="module")
def root(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project_to_embed(tmp_path_factory.mktemp("embedding"), tiny_corpus)


@pytest.fixture(scope="module")
def alone(root: Path, default_config: Config) -> Vectors:
    """By one process."""
    return embedded(root, default_config)


def embedded(root: Path, config: Config) -> Vectors:
    run_embed(root, config)
    rows = len(Corpus.open(root / layout.CORPUS))
    vectors = Vectors.open(root / layout.VECTORS / VECTORS_FILE, rows, remedy="")
    return Vectors(np.array(vectors.image), np.array(vectors.text))


def test_a_cluster_gives_the_vectors_of_one_process(
    root: Path, alone: Vectors, default_config: Config, ray_config: RayConfig
) -> None:
    together = embedded(root, default_config.model_copy(update={"engine": "ray", "ray": ray_config}))
    # where a processor's kernels round by the number of threads, the eighth digit may be another one
    np.testing.assert_allclose(together.image, alone.image, rtol=0, atol=5e-7)
    np.testing.assert_allclose(together.text, alone.text, rtol=0, atol=5e-7)


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    root: Path,
    alone: Vectors,
    tiny_corpus: Corpus,
    cluster: Cluster,
    engine: RayEngine,
    marks: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = EmbedPairs(root=root, device="cpu", corpus_hash=tiny_corpus.hash, encoder_hash=hash_of(root))
    with caplog.at_level(logging.WARNING), node_that_is_killed(cluster, engine, marks) as held_on:
        image, text = spread_vectors(
            engine,
            held_on(work),  # type: ignore[arg-type]
            tiny_corpus.column("caption").tolist(),
            [np.arange(len(tiny_corpus))],
        )
    assert "is gone: " in caplog.text
    np.testing.assert_allclose(image, alone.image, atol=1e-5)
    np.testing.assert_allclose(text, alone.text, atol=1e-5)


def test_old_files_on_a_machine_are_refused(root: Path, tiny_corpus: Corpus) -> None:
    known = {"root": root, "device": "cpu", "corpus_hash": tiny_corpus.hash, "encoder_hash": hash_of(root)}
    for name, of in (("corpus_hash", "corpus"), ("encoder_hash", "encoder")):
        with pytest.raises(LineageError, match=rf"data/{of}: expected the files with hash 0000.*this machine has old"):
            EmbedPairs(**known | {name: "0" * 64}).open()  # type: ignore[arg-type]


def hash_of(root: Path) -> str:
    from rag_diffusion.retrieval.encoder import Encoder

    return Encoder(root / layout.ENCODER).hash
