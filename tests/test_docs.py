"""What README and docs say of files is so."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_tree_names_every_room_and_nothing_else(project_root: Path) -> None:
    text = (project_root / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :].split("```")[1]
    named = re.findall(r"^  ([\w.]+?)/? ", tree, re.M)
    library = project_root / "rag_diffusion"
    rooms = {path.parent.name for path in library.glob("*/__init__.py")}

    assert rooms - set(named) == set()
    assert [name for name in named if not (library / name).exists()] == []


def test_every_link_to_a_file_leads_to_one(project_root: Path) -> None:
    texts = [*project_root.glob("*.md"), *project_root.glob("docs/*.md"), *project_root.glob("benchmarks/*.md")]
    links = [(path, link) for path in texts for link in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))]
    local = [(path, link) for path, link in links if not re.match(r"[a-z]+:", link)]

    assert local
    assert [(path.name, link) for path, link in local if not (path.parent / link).exists()] == []
