"""It does not matter who did the work: after `dvc repro` in a shell Dagster knows as much as after its own run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import StaleStatus

from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.reproduce import asset_key
from rag_diffusion.orchestration.sync import news, sync
from rag_diffusion.orchestration.verdicts import verdicts
from tests.orchestration.projects import dvc, latest, ran, stale


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def evaluations(instance: dg.DagsterInstance, project: Project) -> dict[str, dict[str, bool]]:
    """What Dagster knows of every check of every stage."""
    found: dict[str, dict[str, bool]] = {}
    for name in project.stages:
        keys = [dg.AssetCheckKey(asset_key(name), one.check_name) for one in verdicts(instance, project, name)]
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        found[name] = {
            key.name: record.event.asset_check_evaluation.passed  # type: ignore[union-attr]
            for key, record in records.items()
        }
    return found


@pytest.mark.slow
def test_after_dvc_repro_every_asset_is_fresh_and_a_second_sync_is_silent(
    project: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    assert sync(instance, Project.load(project)) == ["base", "ruler", "upsampler"], "nothing has run"
    dvc(project, environment, "repro")
    loaded = Project.load(project)

    assert sync(instance, loaded) == list(loaded.stages)
    assert list(news(instance, loaded)) == []
    evaluated = evaluations(instance, loaded)
    assert evaluated["ingest"] == {"corpus_is_whole": True}
    assert evaluated["index"].keys() == {"recall_is_high", "upstream_is_clean"}
    assert all(found["upstream_is_clean"] for name, found in evaluated.items() if loaded.stages[name].reads)
    assert stale(instance, loaded) == dict.fromkeys(loaded.stages, StaleStatus.FRESH)
    locked = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["ingest"]["outs"]
    event = latest(instance, "ingest")
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == next(o["md5"] for o in locked if o["path"] == "data/corpus")
    assert event.metadata["mlflow_run"].value == "0" * 32, "the run that made it"

    ran(project)
    (project / "rag_diffusion" / "training" / "input").write_text("changed")
    edited = Project.load(project)
    would_run = yaml.safe_load(dvc(project, environment, "status", "--json"))
    names = {name for name, status in stale(instance, edited).items() if status == StaleStatus.STALE}
    assert names == set(would_run) == {"finetune"}
    dvc(project, environment, "repro")
    told = sync(instance, Project.load(project))
    assert set(told) == set(ran(project)) == {"finetune", "sample", "score", "sweep@alternate-3"}
    assert set(stale(instance, Project.load(project)).values()) == {StaleStatus.FRESH}

    (project / "data" / "base" / "input").write_text("another base")
    assert sync(instance, Project.load(project)) == ["base"]
    names = {name for name, status in stale(instance, Project.load(project)).items() if status == StaleStatus.STALE}
    assert names == {"finetune"}


@pytest.mark.slow
def test_an_upstream_stage_that_ran_alone_leaves_the_others_stale(
    made: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    sync(instance, Project.load(made))
    (made / "rag_diffusion" / "corpus" / "input").write_text("changed")
    dvc(made, environment, "repro", "--single-item", "ingest")

    now = Project.load(made)
    assert sync(instance, now) == ["ingest"]
    readers = {name for name, stage in now.stages.items() if "ingest" in stage.upstream}
    assert {name for name, status in stale(instance, now).items() if status == StaleStatus.STALE} == readers


def test_a_stage_names_what_must_be_there_before_it(project: Path) -> None:
    loaded = Project.load(project)
    assert loaded.missing("ingest") == {}
    assert loaded.missing("embed") == {"align": ["data/encoder"], "ingest": ["data/corpus"]}
    (project / "data" / "base" / "input").unlink()
    (project / "data" / "base").rmdir()
    assert loaded.missing("finetune")["base"] == ["data/base"]
