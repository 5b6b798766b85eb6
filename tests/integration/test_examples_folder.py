"""Every program in examples/ runs as it stands, in a small project, and is short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.small_project import small_project

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
LEAVES = {
    "draw_by_hand.py": ["drawn/0000.png"],
    "draw_retrieved.py": ["with-0/0000.png", "with-2/0000.png"],
    "two_things.py": ["two.png"],
    "knowledge_base.py": ["data/kb/circles"],
    "own_reader.py": ["data/kb/by-name"],
    "own_scheduler.py": ["dpm.png"],
    "missing_icon.py": ["icon.svg"],
    "redraw.py": ["first/0000.png"],
    "animate.py": ["circle.webp"],
}
SAYS = {
    "animate.py": "4 [('frame/00003', ",
    "draw_by_hand.py": "of attention went to 'a red circle'",
    "draw_retrieved.py": "0 []",
    "knowledge_base.py": "3 pairs, version",
    "own_reader.py": "3 pairs; rejected: {'no picture': 3}",
    "own_similarity.py": "['photos/",
    "missing_icon.py": "('a red circle', 'CC0-1.0')",
    "redraw.py": "the same: True",
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project of real parts, worked in."""
    monkeypatch.chdir(small_project(tmp_path, ROOT))
    return tmp_path


def test_examples_are_short_and_each_is_checked() -> None:
    lengths = {name: len((ROOT / "examples" / name).read_text().splitlines()) for name in EXAMPLES}
    assert {name: length for name, length in lengths.items() if length > 30} == {}
    assert set(EXAMPLES) == LEAVES.keys() | SAYS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_stands(name: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert [place for place in LEAVES.get(name, []) if not (inside / place).exists()] == []
    assert SAYS.get(name, "") in capsys.readouterr().out
