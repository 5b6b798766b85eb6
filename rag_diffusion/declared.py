"""What a project's dvc.yaml files say of a stage: its family, its parameters, and where the note of its run lies.

`meta` in dvc.yaml is data for people and programs, and does not make DVC run a stage again: `family` is the group of
assets in Dagster and the experiment in MLflow, `kind` and `pool` are Dagster's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion.layout import RUNS

PARAMS = "params.yaml"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A stage as it is declared.

    Attributes:
        family: what it belongs to; `pipeline` where its `meta` does not say.
        notes: folder of the notes of its runs, relative to the root.
        params: keys of params.yaml that it reads; None where no file of the project knows the stage: it may read all.
    """

    family: str = "pipeline"
    notes: str = RUNS
    params: frozenset[str] | None = None


def declared(root: Path, stage: str) -> Declared:
    """A stage of dvc.yaml or of a pipeline of its own, pipelines/NAME/dvc.yaml.

    Args:
        root: the project.
        stage: its name, or that of an item of it, as `sweep@joint-3`.
    """
    for path in (root / "dvc.yaml", *sorted((root / "pipelines").glob("*/dvc.yaml"))):
        try:
            entry = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"][stage.split("@")[0]]
            family = str((entry.get("meta") or {}).get("family", Declared.family))
            params = frozenset(_keys(entry.get("params", [])))
        except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            continue
        notes = RUNS if path.parent == root else path.parent.relative_to(root).as_posix()
        return Declared(family=family, notes=notes, params=params)
    return Declared()


def own_params(root: Path, stage: str, params: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """Those of all parameters that a stage reads: a run carries these, not all of params.yaml.

    Args:
        root: the project.
        stage: its name, or that of an item of it.
        params: all, by dotted key.
        also: keys that were set for this run alone.
    """
    keys = declared(root, stage).params
    if keys is None:
        return dict(params)
    wanted = {*keys, *also}
    return {name: value for name, value in params.items() if any(_within(name, key) for key in wanted)}


def _keys(entries: Any) -> Iterator[str]:
    """Keys of `params` in a stage: names, or mappings of a file to names."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, Mapping):
            yield from (key for file, names in entry.items() if Path(str(file)).name == PARAMS for key in names or ())


def _within(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")
