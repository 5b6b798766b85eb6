"""The example in the docstring of every public name runs as it stands, in a small project of real parts."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import rag_diffusion
from rag_diffusion.layout import BASE, ENCODER
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.readers.forms import open_reader

ROOT = Path(__file__).resolve().parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CIRCLES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base generator, an untrained encoder, a folder of captioned pictures, and a data set of them."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (root / ENCODER).mkdir(parents=True)
    (root / BASE).symlink_to(ROOT / BASE)
    save_weights(create_embedded(root / ENCODER, image_size=64, embed_dim=16, seed=0), root / ENCODER)
    (root / "photos").mkdir()
    for color in CIRCLES:
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=color)
        picture.save(root / "photos" / f"{color}.png")
        (root / "photos" / f"{color}.txt").write_text(f"a {color} circle", encoding="utf-8")
    rag_diffusion.KnowledgeBase.open(root).add("photos", open_reader("auto", root / "photos"), licence="CC0-1.0")
    return root


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


@pytest.mark.parametrize("name", rag_diffusion.__all__)
def test_the_example_of_a_public_name_runs(name: str) -> None:
    thing = getattr(rag_diffusion, name)
    module = importlib.import_module(thing.__module__)
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, name, module=module, globs={})
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=said.append)
    assert result.attempted, f"{name}: expected an example in its docstring, found none"
    assert not result.failed, "".join(said)
