"""Data sets of the knowledge base in Dagster: what `kb` did in a shell, told by `sync` and by the sensor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from typer.testing import CliRunner

from rag_diffusion.files import tree_hash
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import ENCODER, KB
from rag_diffusion.orchestration.data_sets import DATA_SETS, PARTITIONS
from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.sync import sync
from rag_diffusion.terminal.app import app
from tests.orchestration.projects import commit, dvc, latest
from tests.unit.knowledge.bases import TinyEncoder, items, make_base, write_params

pytestmark = pytest.mark.slow


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def root(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A project in git whose one stage has copied a file to data/encoder."""
    root = tmp_path / "project"
    root.mkdir()
    write_params(root)
    (root / "weights").write_text("first")
    stage = {"cmd": f"mkdir -p {ENCODER} && cp weights {ENCODER}", "deps": ["weights"], "outs": [ENCODER]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"align": stage}}))
    (root / ".gitignore").write_text(f"/{KB}/\n")
    (root / ".dvcignore").write_text(f"{KB}/\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True, env=environment)
    dvc(root, environment, "repro")
    commit(root, environment)
    return root


def base(root: Path) -> KnowledgeBase:
    """The project's knowledge base, with an encoder of the identity that data/encoder has."""
    encoder = TinyEncoder()
    encoder.hash = tree_hash(root / ENCODER)
    return make_base(root, encoder)


def kb(root: Path, *words: str) -> None:
    done = CliRunner().invoke(app, ["kb", *words, "--root", str(root)])
    assert done.exit_code == 0, done.output


def event_of(instance: dg.DagsterInstance, name: str) -> dg.AssetMaterialization:
    """The newest materialization of a data set."""
    chosen = dg.AssetRecordsFilter(asset_key=dg.AssetKey(DATA_SETS), asset_partitions=[name])
    event = instance.fetch_materializations(chosen, limit=1).records[0].asset_materialization
    assert event is not None
    return event


def checks_of(instance: dg.DagsterInstance) -> dict[str, AssetCheckEvaluation]:
    """The newest evaluation of each check of the data sets, by its name."""
    names = ("every_data_set_can_be_searched", "every_data_set_is_in_a_snapshot")
    keys = [dg.AssetCheckKey(dg.AssetKey(DATA_SETS), name) for name in names]
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    events = {key.name: record.event for key, record in records.items()}
    found = {name: event.asset_check_evaluation for name, event in events.items() if event is not None}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


def partitions(instance: dg.DagsterInstance) -> Sequence[str]:
    return sorted(instance.get_dynamic_partitions(str(PARTITIONS.name)))


def test_what_is_added_replaced_kept_and_removed_is_told_once(
    root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    def told() -> list[str]:
        names = sync(instance, Project.load(root))
        assert sync(instance, Project.load(root)) == [], "a second sync is silent"
        return names

    assert told() == ["align"]
    base(root).add("mine", items(range(6)), licence="CC0-1.0")
    base(root).add("other", items(range(20)), licence="MIT")
    assert told() == ["kb/mine", "kb/other"]
    assert partitions(instance) == ["mine", "other"]
    event = event_of(instance, "mine")
    manifest = yaml.safe_load((root / KB / "mine" / "manifest.json").read_text())
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == manifest["hash"]
    encoder = latest(instance, "align").tags
    assert encoder is not None
    assert event.tags["dagster/input_data_version/align"] == encoder["dagster/data_version"]
    metadata = {key: value.value for key, value in event.metadata.items()}
    folder = root / KB / "mine" / "00001"
    assert metadata["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert (metadata["pairs"], metadata["licences"], metadata["added"]) == (6, "CC0-1.0 (6)", manifest["added"])
    first = metadata["content_hash"]
    assert not checks_of(instance)["every_data_set_is_in_a_snapshot"].passed
    assert checks_of(instance)["every_data_set_can_be_searched"].passed

    kb(root, "snapshot")
    commit(root, environment)
    assert told() == ["kb"], "a snapshot changes no data set, but what a check says"
    verdict = checks_of(instance)["every_data_set_is_in_a_snapshot"]
    assert (verdict.passed, verdict.description) == (True, "2 data sets, all in snapshots")

    base(root).add("mine", items(range(10, 30)), replace=True)
    assert told() == ["kb/mine"]
    assert event_of(instance, "mine").metadata["pairs"].value == 20
    description = checks_of(instance)["every_data_set_is_in_a_snapshot"].description
    assert description is not None
    assert description.endswith("data sets: mine")
    kb(root, "restore", "mine", "--force")
    assert told() == ["kb/mine"]
    assert event_of(instance, "mine").metadata["content_hash"].value == first

    kb(root, "remove", "other")
    assert told() == ["kb/other"]
    assert partitions(instance) == ["mine"]
    (record,) = instance.fetch_observations(dg.AssetKey(DATA_SETS), limit=5).records
    assert record.asset_observation is not None
    assert (record.partition_key, record.asset_observation.description) == ("other", "removed from data/kb")
    kb(root, "restore", "other")
    assert told() == ["kb/other"], "the same as before, and yet there again"
    assert partitions(instance) == ["mine", "other"]


def test_another_encoder_leaves_the_data_sets_behind(
    root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    base(root).add("mine", items(range(6)))
    sync(instance, Project.load(root))
    (root / "weights").write_text("second")
    dvc(root, environment, "repro")
    assert sync(instance, Project.load(root)) == ["align", "kb"], "the data set is what it was, its check is not"
    base(root).writer.add_remote("there", "https://images.example.org")
    assert sync(instance, Project.load(root)) == ["kb/there"]
    assert sync(instance, Project.load(root)) == []
    remote = event_of(instance, "there").metadata
    assert (remote["origin"].value, "pairs" in remote) == ("https://images.example.org", False)
    verdict = checks_of(instance)["every_data_set_can_be_searched"]
    assert not verdict.passed
    assert "rag-diffusion kb rebuild mine" in str(verdict.description)
    before = event_of(instance, "mine").tags
    base(root).writer.rebuild("mine")
    assert sync(instance, Project.load(root)) == ["kb/mine"]
    after = event_of(instance, "mine")
    assert before is not None
    assert after.tags is not None
    key = "dagster/input_data_version/align"
    assert before["dagster/data_version"] == after.tags["dagster/data_version"], "the same pairs"
    assert before[key] != after.tags[key]
    assert after.metadata["encoder_hash"].value == tree_hash(root / ENCODER)
    assert checks_of(instance)["every_data_set_can_be_searched"].passed


def test_the_sensor_looks_at_data_sets_and_their_snapshots(root: Path, environment: dict[str, str]) -> None:
    """In a process of its own: which project Dagster watches is chosen when its definitions load."""
    script = (
        "import dagster as dg\nfrom rag_diffusion.orchestration.sensors import dvc_results\n"
        "with dg.DagsterInstance.get() as instance:\n"
        "    cursor = None\n"
        "    for line in iter(input, 'end'):\n"
        "        context = dg.build_sensor_context(instance, cursor=cursor)\n"
        "        print(dvc_results(context).skip_message, flush=True)\n"
        "        cursor = context.cursor\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sensor:
        assert sensor.stdin is not None
        assert sensor.stdout is not None

        def tick() -> str:
            print("tick", file=sensor.stdin, flush=True)
            return sensor.stdout.readline().strip()  # type: ignore[union-attr]

        assert tick() == "told Dagster of align"
        assert tick() == "neither dvc.lock nor a data set has changed"
        base(root).add("mine", items(range(6)))
        assert tick() == "told Dagster of kb/mine"
        kb(root, "snapshot")
        assert tick() == "told Dagster of kb", "its checks say other things"
        (root / KB / "mine" / "manifest.json").write_text("{")
        assert tick() == "told Dagster of kb"
        print("end", file=sensor.stdin, flush=True)
