"""Hatch's hook: the wheel carries what `rag-diffusion init` writes; an editable installation has it in the checkout."""

import ast
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LISTS = ("CARRIED", "CHANGED")  # of rag_diffusion/new_project.py, which is read and not imported: it needs packages


class ProjectFiles(BuildHookInterface[Any]):
    """Adds the listed files below rag_diffusion/project_files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is built, as `standard` or `editable`."""
        module = ast.parse((Path(self.root) / "rag_diffusion/new_project.py").read_text(encoding="utf-8"))
        for node in module.body if version == "standard" else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in LISTS:
                for name in ast.literal_eval(node.value):
                    build_data["force_include"][name] = f"rag_diffusion/project_files/{name}"
