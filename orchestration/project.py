"""What DVC knows about the project: its stages, their order and what dvc.lock says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from dvc.repo import Repo

from rag_diffusion.layout import BASE, RULER, RUNS

if TYPE_CHECKING:
    from dvc.output import Output

EXTERNAL = {Path(path).name: path for path in (BASE, RULER)}  # made by pipelines of their own, tracked by git


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of dvc.yaml.

    Attributes:
        name: as in dvc.yaml; `stage@item` for an item of a matrix.
        description: its `desc`.
        upstream: names of the stages whose outs it depends on.
        external: names of the external assets it depends on.
        outs: paths of its outs, relative to the root, in the order of dvc.yaml.
        metrics: those of the outs that are metric files.
        code_version: hash of its command, parameters, and the files it reads that no stage makes.
    """

    name: str
    description: str
    upstream: tuple[str, ...]
    external: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    code_version: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A DVC project as it was when it was read."""

    root: Path
    stages: Mapping[str, Stage]

    @classmethod
    def load(cls, root: Path | str) -> Project:
        """Read dvc.yaml, params.yaml and the graph of the project at `root`."""
        root = Path(root).resolve()
        with Repo(str(root)) as repo:
            index = repo.index
            own = [stage for stage in index.stages if Path(stage.path) == root / "dvc.yaml" and stage.name]
            makers = {out.fs_path: stage.name for stage in own for out in stage.outs}
            edges: dict[str, list[str]] = {stage.name: [] for stage in own}
            for stage, needed in index.graph.edges:
                if stage.name in edges and needed in own:
                    edges[stage.name].append(needed.name)
            return cls(root=root, stages={s.name: _read_stage(s, edges[s.name], makers) for s in own})

    def data_version(self, name: str) -> str | None:
        """Hash of a stage's outs as dvc.lock has it, None before the first run.

        It is the md5 of the out where there is one. The note of the MLflow run is left out, as it
        differs from run to run.
        """
        try:
            lock = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            return None
        outs = lock.get("stages", {}).get(name, {}).get("outs", [])
        known = {out["path"]: out["md5"] for out in outs if not out["path"].startswith(f"{RUNS}/")}
        return next(iter(known.values())) if len(known) == 1 else digest(known) if known else None


def digest(content: object) -> str:
    """md5 of anything that JSON can hold, as hex."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _read_stage(stage: Any, upstream: list[str], makers: Mapping[str, str]) -> Stage:
    plain = [dep for dep in stage.deps if not _made_by(dep, makers)]
    external = {name: path for name, path in EXTERNAL.items() if any(str(dep) == path for dep in plain)}
    versions = {str(dep): _version(dep) for dep in plain if str(dep) not in external.values()}
    return Stage(
        name=stage.name,
        description=stage.desc or stage.name,
        upstream=tuple(sorted(upstream)),
        external=tuple(sorted(external)),
        outs=tuple(str(out) for out in stage.outs),
        metrics=tuple(str(out) for out in stage.outs if out.metric),
        code_version=digest({"cmd": stage.cmd, **versions}),
    )


def _made_by(dep: Output, makers: Mapping[str, str]) -> bool:
    return any(Path(dep.fs_path).is_relative_to(made) for made in makers)


def _version(dep: Output) -> object:
    """What DVC would write to dvc.lock for it: an md5, or the values of parameters."""
    return dep.get_hash().value if dep.exists else "missing"
