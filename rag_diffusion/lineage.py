"""From any result back to where it comes from: `rag-diffusion lineage FILE_OR_RUN`.

What is known is read from dvc.lock (versions, parameters), from the run.json of each stage (commit, MLflow and Dagster
run) and, for a picture, from the provenance inside of it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion.errors import DataError, RagDiffusionError
from rag_diffusion.files import tree_hash
from rag_diffusion.knowledge.catalogue import Catalogue
from rag_diffusion.knowledge.versions import snapshots
from rag_diffusion.layout import BASE, CORPUS, MODEL, RULER, RUNS, SAMPLES, UPSAMPLER
from rag_diffusion.runs import not_in_store
from rag_diffusion.store.manifest import CORPUS_NAME
from rag_diffusion.types import DataSetVersion

_RUN = re.compile(r"[0-9a-f]{6,32}")
_SHOWN = ("git_commit", "git_dirty", "dvc_experiment", "dagster_run", "run_id", "mlflow_store", "tracking_error")
_LONG = ("scheduler_config", "begin_image")  # settings of a picture that are not for reading
_EXTERNAL = {BASE: "base", RULER: "ruler", UPSAMPLER: "upsampler"}


@dataclass(frozen=True, kw_only=True)
class LineageStep:
    """One stage, or something that git tracks, that a result comes from.

    Attributes:
        name: of the stage.
        outs: path -> hash in dvc.lock.
        params: as dvc.lock has them.
        record: its run.json: MLflow run, commit, Dagster run; empty where it is not there.
        upstream: names of the steps that it read.
        code: path -> hash of the code and fixed inputs that it read.
    """

    name: str
    outs: Mapping[str, str]
    params: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    upstream: tuple[str, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShownNeighbor:
    """A pair that conditioned a picture; its image, a PNG file, is empty where it does not lie here any more."""

    pair_id: str
    caption: str
    licence: str
    attention: float
    image: bytes


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Steps by name, those that another one needs before it; the last one made the result.

    Attributes:
        result: the file or run, as it was asked for.
        notes: what the result itself says, and what could not be found.
        picture: its file, where the result is a picture.
        neighbors: that conditioned it.
    """

    result: str
    steps: Mapping[str, LineageStep]
    notes: tuple[str, ...] = ()
    picture: bytes = b""
    neighbors: tuple[ShownNeighbor, ...] = ()


def trace(root: Path | str, what: str, *, pictures: bool = False) -> Lineage:
    """Where a result comes from.

    Args:
        root: the project.
        what: a file or folder that a stage made, a picture with its provenance inside, or an MLflow run (its id, or the
            first six characters or more of it).
        pictures: whether the neighbors of a picture come with their images, for a drawing.

    Raises:
        DataError: it is none of them, or nothing has been run.
    """
    root = Path(root).resolve()
    steps = _steps(root)
    path = Path(what) if Path(what).is_absolute() else root / what
    if path.exists():
        inside = path.resolve().relative_to(root).as_posix() if path.resolve().is_relative_to(root) else ""
        maker = next((step.name for step in steps.values() if any(_within(inside, out) for out in step.outs)), None)
        drawn = path.suffix.lower() == ".png" and (maker is None or _within(inside, SAMPLES))
        if drawn:
            return _of_picture(root, what, path, steps, maker, pictures=pictures)
        if maker is not None:
            return Lineage(result=what, steps=_up_to(steps, maker))
        raise DataError(f"{what}: expected a result of a stage or a picture with its provenance, got another file")
    maker = next((step.name for step in steps.values() if _is_run(what, step.record)), None)
    if maker is None:
        runs = {step.name: str(step.record.get("run_id") or "")[:8] for step in steps.values()}
        made = ", ".join(f"{name} {run}" for name, run in runs.items() if run)
        raise DataError(
            f"{what}: expected a file of this project or an MLflow run that made what lies in it now, got neither; "
            f"these runs did: {made or 'none'}"
        )
    return Lineage(result=what, steps=_up_to(steps, maker))


def as_text(lineage: Lineage) -> str:
    """The `lineage` for a terminal, the result first."""
    lines = [lineage.result, *(f"  {note}" for note in lineage.notes)]
    for step in reversed(list(lineage.steps.values())):
        lines += ["", f"{step.name}" + (f"  <- {', '.join(step.upstream)}" if step.upstream else "")]
        lines += [f"  {key:14} {step.record[key]}" for key in _SHOWN if step.record.get(key)]
        lines += [f"  {'out':14} {path}  {md5}" for path, md5 in step.outs.items() if not path.startswith(f"{RUNS}/")]
        lines += [f"  {'code':14} {path}  {md5}" for path, md5 in step.code.items()]
        lines += [f"  {'parameter':14} {name} = {value}" for name, value in _flat(step.params).items()]
    return "\n".join(lines)


def _of_data_set(root: Path, version: DataSetVersion) -> str:
    """Whether a data set that was searched lies here as it was then, and else how to have it back."""
    name_and_hash = (
        f"data set {version.name} {version.hash[:12]} ({version.num_pairs} pairs, added {version.added or 'unknown'})"
    )
    with suppress(RagDiffusionError):
        if Catalogue.light(root).info(version.name).hash == version.hash:
            return f"{name_and_hash}: as it lies here now"
    for snapshot in snapshots(root, version.name):
        if snapshot.version.hash == version.hash:
            where = f"commit {snapshot.commit[:12]}" if snapshot.commit else "the present .dvc file"
            back = f"`rag-diffusion kb restore {version.name} --version {version.hash[:12]}` puts it back"
            return f"{name_and_hash}: not what lies here now; DVC tracks it ({where}), {back}"
    return f"{name_and_hash}: not what lies here now, and no snapshot of it is known"


def _of_picture(
    root: Path, what: str, path: Path, steps: Mapping[str, LineageStep], stage: str | None, *, pictures: bool
) -> Lineage:
    """Of a drawn picture; `stage` is the one that drew it, None for one that a person has drawn."""
    from rag_diffusion.sampling.provenance import read_provenance

    origin = read_provenance(path)
    notes = [f"prompt {origin.prompt!r}, seed {origin.seed}"]
    notes += [f"neighbor {pair.pair_id} ({pair.licence}), attention {pair.attention:.2f}" for pair in origin.neighbors]
    settings = {key: value for key, value in origin.settings.items() if key not in _LONG}
    notes.append(f"drawn with {', '.join(f'{key} {value}' for key, value in settings.items())}")
    present = {CORPUS: _corpus_hash(root), MODEL: tree_hash(root / MODEL) if (root / MODEL).is_dir() else ""}
    searched = {data_set.name: data_set.hash for data_set in origin.data_sets}
    versions = {CORPUS: searched.get(CORPUS_NAME, "") if searched else origin.corpus_hash, MODEL: origin.model_hash}
    notes += [_of_data_set(root, data_set) for data_set in origin.data_sets if data_set.name != CORPUS_NAME]
    makers = [] if stage is None else [stage]
    for folder, version in versions.items():
        maker = next((step.name for step in steps.values() if folder in step.outs), None)
        if version and version == present[folder] and maker:
            makers.append(maker)
        elif version or folder == MODEL or not searched:
            notes.append(f"{folder} {version or 'unknown'}: not what lies here now")
    needed = {name: step for maker in makers for name, step in _up_to(steps, maker).items()}
    images = _images(root, [pair.pair_id for pair in origin.neighbors if not pair.image]) if pictures else {}
    return Lineage(
        result=what,
        steps={name: step for name, step in steps.items() if name in needed},
        notes=tuple(notes),
        picture=path.read_bytes(),
        neighbors=tuple(
            ShownNeighbor(
                pair_id=pair.pair_id,
                caption=pair.caption,
                licence=pair.licence,
                attention=pair.attention,
                image=base64.b64decode(pair.image) if pair.image else images.get(pair.pair_id, b""),
            )
            for pair in origin.neighbors
        ),
    )


def _images(root: Path, pair_ids: Sequence[str]) -> dict[str, bytes]:
    """Images of pairs of the pipeline's corpus, of those that it has."""
    from rag_diffusion.store.corpus import Corpus

    images: dict[str, bytes] = {}
    with suppress(RagDiffusionError, KeyError):  # no corpus, or one that is half there
        corpus = Corpus.open(root / CORPUS)
        for pair_id in pair_ids:
            with suppress(RagDiffusionError):
                images[pair_id] = corpus.pair(pair_id).image
    return images


def _corpus_hash(root: Path) -> str:
    try:
        return str(json.loads((root / CORPUS / "manifest.json").read_text(encoding="utf-8"))["hash"])
    except (OSError, ValueError, KeyError):
        return ""


def _steps(root: Path) -> dict[str, LineageStep]:
    """All stages of dvc.lock and what git tracks for them, in order."""
    try:
        lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    except (OSError, KeyError, TypeError):
        raise DataError(f"{root / 'dvc.lock'}: expected what DVC has run, found none; run `dvc repro`") from None
    makers = {out["path"]: name for name, entry in lock.items() for out in entry.get("outs", ())} | _EXTERNAL
    steps: dict[str, LineageStep] = {}
    for name, entry in lock.items():
        deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", ())}
        for path, external in _EXTERNAL.items():
            if path in deps:
                steps[external] = LineageStep(name=external, outs={path: deps[path]})
        steps[name] = LineageStep(
            name=name,
            outs={out["path"]: out["md5"] for out in entry.get("outs", ())},
            params=entry.get("params", {}).get("params.yaml", {}),
            record=_record(root, name),
            upstream=tuple(dict.fromkeys(makers[path] for path in deps if path in makers)),
            code={path: md5 for path, md5 in deps.items() if path not in makers},
        )
    return _sorted(steps)


def _record(root: Path, name: str) -> dict[str, Any]:
    path = root / RUNS / f"{name}.run.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    missing = not_in_store(root, str(record.get("run_id") or ""))
    return record | ({"mlflow_store": missing} if missing else {})


def _sorted(steps: Mapping[str, LineageStep]) -> dict[str, LineageStep]:
    graph = {name: [up for up in step.upstream if up in steps] for name, step in steps.items()}
    return {name: steps[name] for name in TopologicalSorter(graph).static_order()}


def _up_to(steps: Mapping[str, LineageStep], last: str) -> dict[str, LineageStep]:
    needed = {last}
    for step in reversed(list(steps.values())):
        if step.name in needed:
            needed |= set(step.upstream)
    return {name: step for name, step in steps.items() if name in needed}


def _within(path: str, out: str) -> bool:
    return bool(path) and (path == out or path.startswith(f"{out}/"))


def _is_run(what: str, record: Mapping[str, Any]) -> bool:
    return bool(_RUN.fullmatch(what)) and str(record.get("run_id") or "").startswith(what)


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
