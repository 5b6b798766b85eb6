"""`kb add` by workers of a cluster: the data set of one process, also when it is stopped or a node is killed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rag_diffusion import layout
from rag_diffusion.config import Config, RayConfig
from rag_diffusion.errors import DataError, LineageError, RemoteError
from rag_diffusion.files import tree_hash
from rag_diffusion.knowledge import writer
from rag_diffusion.knowledge.ingest import EmbedCandidates
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.store.manifest import Manifest
from tests.unit.engine.nodes import node_that_is_killed
from tests.unit.engine.projects import write_encoder
from tests.unit.knowledge.bases import picture, settings
from tests.unit.readers.pictures import DRAWING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from rag_diffusion.engine.workers import RayEngine

FILES = 60


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures and drawings of other sizes, and a damaged one now and then."""
    folder = tmp_path_factory.mktemp("drawings")
    for number in range(FILES):
        name, content = f"{number:03d}.png", picture(number, size=24 + 8 * (number % 6))
        if number % 3 == 1:
            name, content = f"{number:03d}.svg", DRAWING.replace(b"<svg ", b'<svg id="%d" ' % number)
        elif number % 10 == 2:
            content = content[:40]
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text(f"drawing {number}", encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with an encoder alone."""
    write_encoder(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture(scope="module")
def alone(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, str]:
    """By one process."""
    root = tmp_path_factory.mktemp("alone")
    write_encoder(root)
    return added(base_of(root, settings()), open_reader("auto", drawings))


def base_of(root: Path, config: Config) -> KnowledgeBase:
    return KnowledgeBase(root, config, Encoder(root / layout.ENCODER, device="cpu"))


def by(ray_config: RayConfig) -> Config:
    return settings().model_copy(update={"engine": "ray", "ray": ray_config, "device": "cpu"})


def added(base: KnowledgeBase, reader: Any) -> tuple[Manifest, str]:
    """The manifest of what was made, and the hash of all its files."""
    manifest = base.add("drawings", reader)
    return manifest, tree_hash(base.catalogue.folders.generation("drawings", manifest.generation))


def test_a_cluster_makes_the_data_set_of_one_process(
    root: Path, drawings: Path, alone: tuple[Manifest, str], ray_config: RayConfig
) -> None:
    made = added(base_of(root, by(ray_config)), open_reader("auto", drawings))
    assert made == alone
    assert made[0].num_pairs + made[0].num_rejected == FILES
    assert made[0].rejected_by_reason == {"corrupt image": 4}


def test_a_build_that_was_stopped_goes_on_where_it_was(
    root: Path, drawings: Path, alone: tuple[Manifest, str], ray_config: RayConfig
) -> None:
    def stops() -> Iterator[Item | Rejection]:
        for number, candidate in enumerate(open_reader("auto", drawings)):
            if number == 30:
                raise DataError("the disk is gone")
            yield candidate

    base = base_of(root, by(ray_config))
    with pytest.raises(DataError, match="the disk is gone"):
        base.add("drawings", stops())
    parts = [json.loads(path.read_text()) for path in base.catalogue.folders.building("drawings").glob("0*.json")]
    assert sum(part["candidates"] for part in parts) == 24, "whole batches of 8"
    assert added(base, open_reader("auto", drawings)) == alone


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    root: Path,
    drawings: Path,
    alone: tuple[Manifest, str],
    cluster: Cluster,
    engine: RayEngine,
    ray_config: RayConfig,
    marks: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), node_that_is_killed(cluster, engine, marks) as held_on:
        monkeypatch.setattr(writer, "EmbedCandidates", lambda **given: held_on(EmbedCandidates(**given)))
        made = added(base_of(root, by(ray_config)), open_reader("auto", drawings))
    assert "is gone: " in caplog.text
    assert made == alone


def test_another_encoder_on_a_machine_is_refused(root: Path) -> None:
    facts = Manifest(name="drawings", form="imagefolder", encoder_hash="0" * 64)
    with pytest.raises(LineageError, match="data/encoder: expected the files with hash 0000.*this machine has old"):
        EmbedCandidates(facts=facts, encoder=root / layout.ENCODER, device="cpu").open()


def test_a_cluster_that_does_not_answer_leaves_nothing(root: Path, drawings: Path) -> None:
    base = base_of(root, by(RayConfig(address="nowhere")))
    with pytest.raises(RemoteError, match="expected a Ray cluster at nowhere"):
        added(base, open_reader("auto", drawings))
    assert base.catalogue.list() == []
