"""What DVC knows about the project: its stages, their order and what dvc.lock says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import parse_yaml

from rag_diffusion.declared import Declared
from rag_diffusion.layout import BASE, RULER, RUNS, UPSAMPLER
from rag_diffusion.orchestration.mend import is_whole, mend

if TYPE_CHECKING:
    from dvc.output import Output

T = TypeVar("T")
EXTERNAL = {Path(path).name: path for path in (BASE, RULER, UPSAMPLER)}  # of pipelines of their own, in git


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
        own_deps: paths that are neither an out of a stage nor an external asset: code and fixed inputs.
        reads: stage or external asset -> paths of it that this stage depends on.
        family: its group of assets, by its `meta` in dvc.yaml, as are the next two.
        kind: what it makes, as Dagster names kinds; empty where nobody says.
        pool: of runs of which only so many at a time may run; empty for none.
    """

    name: str
    description: str
    upstream: tuple[str, ...]
    external: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    code_version: str
    own_deps: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]]
    family: str
    kind: str
    pool: str


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """What dvc.lock says of the outs of a stage: their version, and what they were made from.

    Attributes:
        data_version: hash of the outs; the md5 where there is one out. The note of the MLflow run is left out, as it
            differs from run to run.
        code_version: as `Stage.code_version`, of the run that made them.
        inputs: stage or external asset -> the version of it that was read; None where that cannot be told any more.
    """

    data_version: str
    code_version: str
    inputs: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Project:
    """A DVC project as it was when it was read.

    Attributes:
        stages: by name, those that another one needs before it.
        external: version of each external asset that is there: the md5 that DVC gives it.
    """

    root: Path
    stages: Mapping[str, Stage]
    external: Mapping[str, str]

    @classmethod
    def load(cls, root: Path | str) -> Project:
        """Read dvc.yaml, params.yaml and the graph of the project at `root`; mends a half-written dvc.lock before.

        Raises:
            DvcException: one of its files is not as DVC wants it.
        """
        root = Path(root).resolve()
        return _undisturbed(root, lambda: cls._read(root))

    @classmethod
    def _read(cls, root: Path) -> Project:
        with Repo(str(root)) as repo:
            index = repo.index
            own = [stage for stage in index.stages if Path(stage.path) == root / "dvc.yaml" and stage.name]
            makers = {out.fs_path: stage.name for stage in own for out in stage.outs}
            edges: dict[str, list[str]] = {stage.name: [] for stage in own}
            for stage, needed in index.graph.edges:
                if stage.name in edges and needed in own:
                    edges[stage.name].append(needed.name)
            order = TopologicalSorter(edges).static_order()
            by_name = {stage.name: stage for stage in own}
            stages = {name: _read_stage(by_name[name], edges[name], makers) for name in order}
            deps = {str(dep): dep for stage in own for dep in stage.deps}
            external = {
                name: str(deps[path].get_hash().value)
                for name, path in EXTERNAL.items()
                if path in deps and deps[path].exists
            }
            return cls(root=root, stages=stages, external=external)

    def data_version(self, name: str) -> str | None:
        """`LastRun.data_version` of the stage `name`, None before its first run."""
        lock = self._lock().get(name)
        return None if lock is None else _data_version(lock)

    def last_runs(self) -> dict[str, LastRun]:
        """What dvc.lock says of every stage that has run, those that another one needs before it."""
        locks = self._lock()
        return {name: self._last_run(stage, locks) for name, stage in self.stages.items() if name in locks}

    def missing(self, name: str) -> dict[str, list[str]]:
        """Stage or external asset -> paths of it that the stage `name` needs and that are not there."""
        reads = self.stages[name].reads
        absent = {up: [path for path in paths if not (self.root / path).exists()] for up, paths in reads.items()}
        return {up: paths for up, paths in absent.items() if paths}

    def _lock(self) -> dict[str, Any]:
        """DVC's own reader: to PyYAML the 5e-05 that DVC writes is a text."""
        path = self.root / "dvc.lock"

        def read() -> dict[str, Any]:
            lock = parse_yaml(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}
            stages: dict[str, Any] = lock.get("stages", {})
            return stages

        return _undisturbed(self.root, read)

    def _last_run(self, stage: Stage, locks: Mapping[str, Any]) -> LastRun:
        lock = locks[stage.name]
        deps = {dep["path"]: dep["md5"] for dep in lock.get("deps", [])}
        own = {path: md5 for path, md5 in deps.items() if path in stage.own_deps} | lock.get("params", {})
        return LastRun(
            data_version=_data_version(lock),
            code_version=digest({"cmd": lock["cmd"], **own}),
            inputs={name: _input_version(name, paths, deps, locks) for name, paths in stage.reads.items()},
        )


def _undisturbed(root: Path, read: Callable[[], T]) -> T:
    """What `read` finds of dvc.lock while DVC does not write it."""
    while True:
        mend(root)
        before = _written(root)
        try:
            result = read()
        except (DvcException, FileNotFoundError):
            if is_whole(root) and _written(root) == before:
                raise
        else:
            if is_whole(root) and _written(root) == before:
                return result


def _written(root: Path) -> tuple[int, int] | None:
    """When dvc.lock was written, and its bytes; None where there is none."""
    try:
        status = (root / "dvc.lock").stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _data_version(lock: Mapping[str, Any]) -> str:
    return _version_of(_outs(lock))


def _outs(lock: Mapping[str, Any]) -> dict[str, str]:
    """md5 by path, without the note of the MLflow run."""
    return {out["path"]: out["md5"] for out in lock.get("outs", []) if not out["path"].startswith(f"{RUNS}/")}


def _version_of(outs: Mapping[str, str]) -> str:
    return str(next(iter(outs.values()))) if len(outs) == 1 else digest(dict(outs))


def _input_version(name: str, paths: tuple[str, ...], deps: Mapping[str, str], locks: Mapping[str, Any]) -> str | None:
    """The version of what was read; of a stage that has run again since and of whose outs only some were read: None."""
    read = {path: deps[path] for path in paths}
    if name in EXTERNAL:
        return _version_of(read)
    outs = _outs(locks.get(name, {}))
    if outs.keys() == read.keys():
        return _version_of(read)
    return _version_of(outs) if all(outs.get(path) == md5 for path, md5 in read.items()) else None


def digest(content: object) -> str:
    """md5 of `content`, anything that JSON can hold, as hex."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _read_stage(stage: Any, upstream: list[str], makers: Mapping[str, str]) -> Stage:
    plain = [dep for dep in stage.deps if not _made_by(dep, makers)]
    external = {name: path for name, path in EXTERNAL.items() if any(str(dep) == path for dep in plain)}
    reads: dict[str, list[str]] = {name: [path] for name, path in external.items()}
    for dep in stage.deps:
        for out, name in makers.items():
            if Path(dep.fs_path).is_relative_to(out):
                reads.setdefault(name, []).append(str(dep))
    versions = {str(dep): _version(dep) for dep in plain if str(dep) not in external.values()}
    meta = stage.meta or {}
    return Stage(
        name=stage.name,
        description=stage.desc or stage.name,
        upstream=tuple(sorted(upstream)),
        external=tuple(sorted(external)),
        outs=tuple(str(out) for out in stage.outs),
        metrics=tuple(str(out) for out in stage.outs if out.metric),
        code_version=digest({"cmd": stage.cmd, **versions}),
        own_deps=tuple(str(dep) for dep in plain if str(dep) not in external.values()),
        reads={name: tuple(paths) for name, paths in sorted(reads.items())},
        family=str(meta.get("family", Declared.family)),
        kind=str(meta.get("kind", "")),
        pool=str(meta.get("pool", "")),
    )


def _made_by(dep: Output, makers: Mapping[str, str]) -> bool:
    return any(Path(dep.fs_path).is_relative_to(out) for out in makers)


def _version(dep: Output) -> object:
    """What DVC would write to dvc.lock for it: an md5, or the values of parameters."""
    return dep.get_hash().value if dep.exists else "missing"
