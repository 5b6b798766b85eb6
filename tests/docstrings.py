"""Which public functions leave arguments unsaid: `python -m tests.docstrings [FOLDER ...]` prints them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "rag_diffusion"
COMMANDS = {"command", "callback"}  # their arguments are documented by their own help


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its classes whose names begin with no underscore."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [*tree.body, *(member for owner in classes for member in owner.body)]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    named = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    return any(isinstance(node, ast.Attribute) and node.attr in COMMANDS for node in named)


def undocumented(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Arguments of `function` that its docstring does not name: under Args or, of one or two, in backticks."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = [argument.arg for argument in arguments if argument.arg not in {"self", "cls"} and argument.arg[0] != "_"]
    if _is_command(function):
        return []
    text = ast.get_docstring(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.M)
    listed = section[1] if section else ""
    in_prose = names if len(names) <= 2 else []
    said = {name for name in names if re.search(rf"^\s+(\w+, )*`?\*{{0,2}}{name}\b.*:", listed, re.M)}
    said |= {name for name in in_prose if re.search(rf"`[^`]*\b{name}\b[^`]*`", text)}
    return [name for name in names if name not in said]


def missing_in(folder: Path) -> dict[str, list[str]]:
    """Undocumented arguments in a file, or below a folder, by "file:line function"."""
    report = {}
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        for function in public_functions(ast.parse(path.read_text())):
            if names := undocumented(function):
                report[f"{path.relative_to(LIBRARY.parent)}:{function.lineno} {function.name}"] = names
    return report


if __name__ == "__main__":
    for folder in sys.argv[1:] or [str(LIBRARY)]:
        for place, names in missing_in(Path(folder).resolve()).items():
            print(f"{place}: {', '.join(names)}")
