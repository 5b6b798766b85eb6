"""The documentation's site is built without a warning, loads nothing of other hosts, and has its equations drawn."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(\w+:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    root, into = Path(__file__).resolve().parents[2], tmp_path_factory.mktemp("docs") / "build"
    command = [sys.executable, str(root / "docs/build_site.py"), "--into", str(into)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "griffe:" not in done.stdout + done.stderr, done.stderr[-3000:]
    return into / "site"


@pytest.mark.slow
def test_every_page_is_there_and_loads_nothing_of_other_hosts(site: Path, project_root: Path) -> None:
    pages = {page.relative_to(site): page.read_text(encoding="utf-8") for page in site.rglob("index.html")}
    sources = [*(project_root / "docs").rglob("*.md"), *(project_root / "docs").rglob("*.ipynb")]
    names = {path.relative_to(project_root / "docs").with_suffix("") for path in sources if path.stem != "index"}
    assert {str(name / "index.html") for name in names} <= {str(page) for page in pages}
    assert {str(page): LOADED.findall(text) for page, text in pages.items() if LOADED.search(text)} == {}


@pytest.mark.slow
def test_equations_code_and_docstrings_stand_in_it(site: Path) -> None:
    concepts = (site / "concepts/index.html").read_text(encoding="utf-8")
    assert concepts.count("<math") > 20
    assert "\\epsilon" not in concepts
    assert "by_file_name" in (site / "extending/index.html").read_text(encoding="utf-8")
    assert "--neighbor" in (site / "reference/commands/index.html").read_text(encoding="utf-8")
    assert "min_recall" in (site / "reference/settings/index.html").read_text(encoding="utf-8")
    assert "num_inference_steps" in (site / "reference/library/index.html").read_text(encoding="utf-8")


def test_the_menu_names_every_page_by_hand(project_root: Path) -> None:
    docs = project_root / "docs"
    text = (docs / "zensical.toml").read_text(encoding="utf-8")
    tomllib.loads(text)
    named = set(re.findall(r'"([\w/-]+)\.md"', text)) - {"SECURITY", "CONTRIBUTING", "CHANGELOG"}
    written = {str(path.relative_to(docs).with_suffix("")) for kind in ("*.md", "*.ipynb") for path in docs.rglob(kind)}
    made = {"reference/commands", "reference/settings"}
    assert named == written | made
