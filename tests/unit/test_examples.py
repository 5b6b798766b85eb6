"""The example in the docstring of every public name runs as it stands, in a small project of real parts."""

from __future__ import annotations

import doctest
import functools
import importlib
from pathlib import Path

import pytest

import rag_diffusion
from tests.small_project import small_project

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """A small project of real parts."""
    return small_project(tmp_path_factory.mktemp("project"), project_root)


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


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("rollout_pipeline", "RolloutPipeline.rollout"),
        ("clip_folder", "ClipFolder"),
        ("frame_text", "frame_prompt"),
        ("frame_text", "frame_caption"),
    ],
)
def test_the_example_of_a_clip_runs(name: str, place: str) -> None:
    module = importlib.import_module(f"rag_diffusion.sampling.{name}")
    thing = functools.reduce(getattr, place.split("."), module)
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, place, module=module, globs={})
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=said.append)
    assert result.attempted
    assert not result.failed, "".join(said)
