"""The parameters that a stage reads, as its dvc.yaml names them: a run carries these, not all of params.yaml."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

PARAMS = "params.yaml"


def own_params(root: Path, stage: str, params: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """Those of all parameters that a stage reads; all of them where no pipeline file of the project knows the stage.

    Args:
        root: the project.
        stage: its name, or that of an item of it, as `sweep@joint-3`.
        params: all, by dotted key.
        also: keys that were set for this run alone.
    """
    keys = _read_by(root, stage.split("@")[0])
    if keys is None:
        return dict(params)
    wanted = {*keys, *also}
    return {name: value for name, value in params.items() if any(_within(name, key) for key in wanted)}


def _read_by(root: Path, stage: str) -> set[str] | None:
    for path in (root / "dvc.yaml", *sorted((root / "pipelines").glob("*/dvc.yaml"))):
        try:
            stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
            return set(_keys(stages[stage].get("params", [])))
        except (OSError, KeyError, TypeError, yaml.YAMLError):
            continue
    return None


def _keys(entries: Any) -> Iterator[str]:
    """Keys of `params` in a stage: names, or mappings of a file to names."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, Mapping):
            yield from (key for file, names in entry.items() if Path(str(file)).name == PARAMS for key in names or ())


def _within(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")
