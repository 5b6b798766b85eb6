"""Which public functions leave arguments unsaid: `python -m tests.docstrings [FOLDER ...]` prints them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "rag_diffusion"


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its classes whose names begin with no underscore.

    A method without a docstring that a base class of the module has as well inherits its docstring, and is left out.
    """
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [*tree.body, *(member for owner in classes for member in _own_members(owner, classes))]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def _own_members(owner: ast.ClassDef, classes: list[ast.ClassDef]) -> Iterator[ast.stmt]:
    """What a class documents itself."""
    above = {base.id for base in owner.bases if isinstance(base, ast.Name)}
    functions = [member for other in classes if other.name in above for member in other.body]
    inherited = {member.name for member in functions if isinstance(member, ast.FunctionDef)}
    for member in owner.body:
        inherits = isinstance(member, ast.FunctionDef) and member.name in inherited and not ast.get_docstring(member)
        if not inherits:
            yield member


def _options(tree: ast.Module) -> set[str]:
    """Names of a module's annotations that carry the help of a command's argument, as `Root`."""
    aliases = [node for node in tree.body if isinstance(node, ast.Assign) and _has_help(node.value, set())]
    return {target.id for node in aliases for target in node.targets if isinstance(target, ast.Name)}


def _has_help(annotation: ast.expr | None, options: set[str]) -> bool:
    if isinstance(annotation, ast.Subscript):
        return isinstance(annotation.value, ast.Name) and annotation.value.id == "Annotated"
    return isinstance(annotation, ast.Name) and annotation.id in options


def undocumented(function: ast.FunctionDef | ast.AsyncFunctionDef, options: set[str]) -> list[str]:
    """Arguments of `function` that its docstring does not name: under Args or, of one or two, in backticks.

    An annotation with help, such as one of `options`, documents an argument of a command; all stages have one `ctx`.
    """
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    said_elsewhere = {"self", "cls"} | ({"ctx"} if function.name == "run" else set())
    names = [
        argument.arg
        for argument in arguments
        if argument.arg not in said_elsewhere and argument.arg[0] != "_" and not _has_help(argument.annotation, options)
    ]
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
        tree = ast.parse(path.read_text())
        for function in public_functions(tree):
            if names := undocumented(function, _options(tree)):
                report[f"{path.relative_to(LIBRARY.parent)}:{function.lineno} {function.name}"] = names
    return report


if __name__ == "__main__":
    for folder in sys.argv[1:] or [str(LIBRARY)]:
        for place, names in missing_in(Path(folder).resolve()).items():
            print(f"{place}: {', '.join(names)}")
