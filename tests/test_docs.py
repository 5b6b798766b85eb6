"""What README and docs say of files is so."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import rag_diffusion
from rag_diffusion.terminal.app import app

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")


def test_the_tree_names_every_room_and_nothing_else(project_root: Path) -> None:
    text = (project_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :].split("```")[1]
    named = re.findall(r"^  ([\w.]+?)/? ", tree, re.M)
    library = project_root / "rag_diffusion"
    rooms = {path.parent.name for path in library.glob("*/__init__.py")}

    assert rooms - set(named) == set()
    assert [name for name in named if not (library / name).exists()] == []


def test_every_link_to_a_file_leads_to_one(project_root: Path) -> None:
    texts = [*project_root.glob("*.md"), *project_root.glob("docs/**/*.md"), *project_root.glob("benchmarks/*.md")]
    links = [(path, link) for path in texts for link in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))]
    local = [(path, link) for path, link in links if not re.match(r"[a-z]+:", link)]

    assert local
    assert [(path.name, link) for path, link in local if not (path.parent / link).exists()] == []


def pages(root: Path) -> dict[str, str]:
    """Every page of documentation, by its path."""
    paths = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def lines_of_code(text: str) -> list[str]:
    """Lines of all blocks, and what stands between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [line.split(" # ")[0].strip() for block in blocks for line in block.splitlines()] + spans


def unknown(words: list[str]) -> str:
    """The first word of a command that the program does not know; empty where it knows all."""
    command: Any = typer.main.get_command(app)
    for place, word in enumerate(words):
        if hasattr(command, "commands"):  # a group
            options = {name for option in command.params for name in option.opts}
            if word in options or not re.fullmatch(r"[a-z][a-z-]*", word):
                return "" if word in options or word.isupper() or word == "..." else word
            found = command.commands.get(word)
            if found is None:
                return word
            command = found
            continue
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        wrong = [one for one in words[place:] if one.startswith("--") and one.strip("]),;") not in options]
        return wrong[0] if wrong else ""
    return ""


def test_every_command_and_option_in_the_documentation_is_one(project_root: Path) -> None:
    wrong, seen = [], 0
    for name, text in pages(project_root).items():
        for line in lines_of_code(text):
            if line.startswith("rag-diffusion "):
                words = shlex.split(line.replace("[", " ").replace("]", " ").split(" && ")[0])[1:]
                seen += 1
                if one := unknown(words):
                    wrong.append((name, line, one))
    assert wrong == []
    assert seen > 40


def test_every_target_of_make_in_the_documentation_is_one(project_root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (project_root / "Makefile").read_text(), re.M))
    named = {
        found[1]
        for text in pages(project_root).values()
        for line in lines_of_code(text)
        if (found := re.match(r"make (\w+)\b", line))
    }
    assert len(named) > 5
    assert named - targets == set()


def test_python_in_the_documentation_can_be_read_and_its_names_are_there(project_root: Path) -> None:
    blocks = [
        block
        for text in pages(project_root).values()
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    ]
    assert blocks
    for block in blocks:
        compile(block, "page", "exec")
        for names in re.findall(r"^from rag_diffusion import (.+)$", block, re.M):
            assert set(names.split(", ")) <= set(rag_diffusion.__all__), block


def test_the_readme_is_short_and_shows_a_picture_and_links_first(project_root: Path) -> None:
    text = (project_root / "README.md").read_text(encoding="utf-8")
    first = text[: text.index("## ")]
    assert len(text.splitlines()) <= 200
    assert "docs/picture.png" in first
    assert "arxiv.org/abs/2209.14491" in first
    assert "WO2024072749A1" in first
    assert re.findall(r"!\[[^\]]*\]\(https?:", text) == [], "pictures of other hosts"


@pytest.mark.parametrize(("badge", "fact"), [("python", "3.11 to 3.13"), ("licence", "Apache-2.0")])
def test_badges_say_what_the_package_says(badge: str, fact: str, project_root: Path) -> None:
    project = tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["requires-python"], project["license"]) == (">=3.11,<3.14", "Apache-2.0")
    assert fact in (project_root / f"docs/badges/{badge}.svg").read_text(encoding="utf-8")


def test_workflows_and_templates_can_be_read_and_run_what_is_there(project_root: Path) -> None:
    files = {path: yaml.safe_load(path.read_text()) for path in (project_root / ".github").rglob("*.yml")}
    workflow = files[project_root / ".github/workflows/ci.yml"]
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z]+):", (project_root / "Makefile").read_text(), re.M))
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= targets
    assert all((project_root / command).is_file() for command in commands if command.startswith(".ci/"))
    forms = [form for path, form in files.items() if path.parent.name == "ISSUE_TEMPLATE" and path.stem != "config"]
    assert forms
    assert all({"name", "description", "body"} <= form.keys() for form in forms)


def test_every_extra_stands_in_the_documentation(project_root: Path) -> None:
    project = tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (project_root / "docs/install.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert named == project["optional-dependencies"].keys() - {"dev"}


def test_the_citation_has_the_version(project_root: Path) -> None:
    text = (project_root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {rag_diffusion.__version__}\n" in text
