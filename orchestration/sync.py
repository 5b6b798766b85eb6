"""Tell Dagster what `dvc repro` made in a shell: `rag-diffusion sync`, and a sensor that does it by itself.

An asset is up to date in Dagster where its newest materialization names the versions that dvc.lock names: of the outs,
of code and parameters, of everything that was read. Where they differ a materialization without a run is reported, so
that a second sync has nothing to say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from orchestration.dead_runs import bury
from orchestration.metadata import card_metadata, stage_metadata
from orchestration.project import Made, Project
from orchestration.reproduce import asset_key, stage_name
from orchestration.verdicts import verdicts

_DATA, _CODE = "dagster/data_version", "dagster/code_version"
_INPUT, _POINTER = "dagster/input_data_version/", "dagster/input_event_pointer/"
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
    for name, made in project.made().items():
        tags = _tags(made)
        if not _known(instance, name, tags):
            stage = project.stages[name]
            unknown = {f"{_INPUT}{_text(up)}": "of a former run" for up in made.inputs}
            pointers = {f"{_POINTER}{_text(up)}": "NULL" for up in made.inputs}
            yield dg.AssetMaterialization(
                asset_key(name),
                description="reported from dvc.lock",
                metadata=stage_metadata(project.root, stage) if _all_there(project, name) else {},
                tags=unknown | tags | pointers | _BY_USER,
            )


def sync(instance: dg.DagsterInstance, project: Project) -> list[str]:
    """Report all news and judge it by the checks; returns the names of the stages and external assets."""
    names = []
    for event in news(instance, project):
        instance.report_runless_asset_event(event)
        names.append(stage_name(event.asset_key))
    for name in names:
        if name in project.stages:
            for verdict in verdicts(instance, project, name):
                instance.report_runless_asset_event(verdict)
    return names


def _tags(made: Made) -> dict[str, str]:
    """What the newest materialization must say."""
    inputs = {f"{_INPUT}{_text(up)}": version for up, version in made.inputs.items() if version}
    return {_DATA: made.data_version, _CODE: made.code_version} | inputs


def _text(name: str) -> str:
    return asset_key(name).to_user_string()


def _known(instance: dg.DagsterInstance, name: str, tags: Mapping[str, str]) -> bool:
    event = instance.get_latest_materialization_event(asset_key(name))
    if event is None or event.asset_materialization is None:
        return False
    known = event.asset_materialization.tags or {}
    return all(known.get(key) == value for key, value in tags.items())


def _all_there(project: Project, name: str) -> bool:
    return all((project.root / out).exists() for out in project.stages[name].outs)


def main(root: Path) -> None:
    """Say what was reported."""
    os.environ.setdefault("DAGSTER_HOME", str(root.resolve() / ".dagster"))
    with dg.DagsterInstance.get() as instance:
        for run in bury(instance):
            print(f"run {run} has failed: its process is gone")
        names = sync(instance, Project.load(root))
    print(f"told Dagster of {', '.join(names)}" if names else "Dagster knows everything that dvc.lock knows")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
