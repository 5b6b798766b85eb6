"""Tell Dagster what `dvc repro` and `rag-diffusion kb` made in a shell: `rag-diffusion sync`, and a sensor.

An asset is up to date in Dagster where its newest materialization names the versions that dvc.lock names: of the outs,
of code and parameters, of everything that was read. Where they differ a materialization without a run is reported, so
that a second sync has nothing to say. A data set is a partition of `kb`, and known by its manifest; a removed one is
observed as removed, and its partition goes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.metadata import normalize_metadata

from rag_diffusion.orchestration.data_sets import (
    DATA_SETS,
    PARTITIONS,
    content_version,
    data_set_metadata,
    encoder_stages,
    encoder_version,
    manifests,
)
from rag_diffusion.orchestration.dead_runs import fail_dead_runs
from rag_diffusion.orchestration.metadata import card_metadata, stage_metadata
from rag_diffusion.orchestration.project import LastRun, Project
from rag_diffusion.orchestration.reproduce import asset_key, stage_name
from rag_diffusion.orchestration.verdicts import verdicts

_DATA, _CODE = "dagster/data_version", "dagster/code_version"
_INPUT, _POINTER = "dagster/input_data_version/", "dagster/input_event_pointer/"
_PARTITIONS = str(PARTITIONS.name)
_BY_USER = {"dagster/data_version_is_user_provided": "true"}


def news(instance: dg.DagsterInstance, project: Project) -> Iterator[dg.AssetMaterialization]:
    """What dvc.lock knows and Dagster does not, in the order in which it was made.

    Args:
        instance: Dagster's memory.
        project: as it is on disk.
    """
    for name, version in project.external.items():
        if not _known(instance, name, {_DATA: version}):
            yield dg.AssetMaterialization(
                name,
                description="as git has it",
                metadata=card_metadata(project.root, name),
                tags={_DATA: version} | _BY_USER,
            )
    for name, run in project.last_runs().items():
        if not _known(instance, name, _tags(run)):
            stage = project.stages[name]
            yield dg.AssetMaterialization(
                asset_key(name),
                description="reported from dvc.lock",
                metadata=stage_metadata(project.root, stage) if _all_there(project, name) else {},
                tags=_inputs_of(run.inputs) | _tags(run) | _BY_USER,
            )


def _data_set_news(
    instance: dg.DagsterInstance, project: Project
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """Data sets of the knowledge base that came, changed or went, as Dagster does not know them yet.

    Args:
        instance: Dagster's memory.
        project: as it is on disk.
    """
    partitions, present = set(instance.get_dynamic_partitions(_PARTITIONS)), manifests(project.root)
    for name, manifest in present.items():
        if manifest is None:  # damaged: a check tells it
            continue
        versions = dict.fromkeys(encoder_stages(project), encoder_version(project, manifest))
        tags = {_DATA: content_version(manifest)} | _known_inputs(versions)
        metadata = data_set_metadata(manifest)
        if name not in partitions or not _known(instance, DATA_SETS, tags, name, metadata):
            yield dg.AssetMaterialization(
                DATA_SETS,
                partition=name,
                description="reported from data/kb",
                metadata=metadata,
                tags=_inputs_of(versions) | tags | _BY_USER,
            )
    for name in sorted(partitions - present.keys()):
        yield dg.AssetObservation(DATA_SETS, partition=name, description="removed from data/kb")


def sync(instance: dg.DagsterInstance, project: Project) -> list[str]:
    """Report all news of `project` to `instance`, and judge it by the checks.

    Returns:
        Names of the stages and external assets, of data sets as `kb/NAME`; `kb` where a check says other things.
    """
    names = []
    for event in news(instance, project):
        instance.report_runless_asset_event(event)
        names.append(stage_name(event.asset_key))
    for name in names:
        if name in project.stages:
            for verdict in verdicts(instance, project, name):
                instance.report_runless_asset_event(verdict)
    return names + _sync_data_sets(instance, project)


def _sync_data_sets(instance: dg.DagsterInstance, project: Project) -> list[str]:
    names = []
    for event in _data_set_news(instance, project):
        name = str(event.partition)
        if isinstance(event, dg.AssetMaterialization):
            instance.add_dynamic_partitions(_PARTITIONS, [name])
        instance.report_runless_asset_event(event)
        if isinstance(event, dg.AssetObservation):
            instance.delete_dynamic_partition(_PARTITIONS, name)
        names.append(f"{DATA_SETS}/{name}")
    for verdict in verdicts(instance, project, DATA_SETS):
        changed = _last_verdict(instance, verdict) != (verdict.passed, verdict.description)
        if names or changed:
            instance.report_runless_asset_event(verdict)
        if changed and not names:  # a snapshot or another encoder changes what is said of data sets, not the data sets
            names.append(DATA_SETS)
    return names


def _last_verdict(instance: dg.DagsterInstance, verdict: dg.AssetCheckEvaluation) -> tuple[bool, str | None] | None:
    """Whether the check of `verdict` passed when it was last judged, and what it said."""
    storage, key = instance.event_log_storage, verdict.asset_check_key
    record = storage.get_latest_asset_check_execution_by_key([key]).get(key)
    if record is None or record.event is None or record.event.asset_check_evaluation is None:
        return None
    return record.event.asset_check_evaluation.passed, record.event.asset_check_evaluation.description


def _tags(run: LastRun) -> dict[str, str]:
    """What the newest materialization must say."""
    return {_DATA: run.data_version, _CODE: run.code_version} | _known_inputs(run.inputs)


def _known_inputs(inputs: Mapping[str, str | None]) -> dict[str, str]:
    return {f"{_INPUT}{_text(up)}": version for up, version in inputs.items() if version}


def _inputs_of(inputs: Mapping[str, str | None]) -> dict[str, str]:
    """Tags of everything that was read; a version that cannot be told any more equals none."""
    versions = {f"{_INPUT}{_text(up)}": "of a former run" for up in inputs} | _known_inputs(inputs)
    return versions | {f"{_POINTER}{_text(up)}": "NULL" for up in inputs}


def _text(name: str) -> str:
    return asset_key(name).to_user_string()


def _known(
    instance: dg.DagsterInstance,
    name: str,
    tags: Mapping[str, str],
    partition: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bool:
    """Whether the newest materialization of an asset, or of a partition of it, has these tags and all this metadata."""
    chosen = dg.AssetRecordsFilter(asset_key=asset_key(name), asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(chosen, limit=1).records
    event = records[0].asset_materialization if records else None
    if event is None or not tags.items() <= (event.tags or {}).items():
        return False
    return metadata is None or event.metadata == normalize_metadata(metadata)


def _all_there(project: Project, name: str) -> bool:
    return all((project.root / out).exists() for out in project.stages[name].outs)


def main(root: Path) -> None:
    """Sync the project at `root`, and print what was reported."""
    os.environ.setdefault("DAGSTER_HOME", str(root.resolve() / ".dagster"))
    with dg.DagsterInstance.get() as instance:
        for run in fail_dead_runs(instance):
            print(f"run {run} has failed: its process is gone")
        names = sync(instance, Project.load(root))
    print(f"told Dagster of {', '.join(names)}" if names else "Dagster knows everything that lies here")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
