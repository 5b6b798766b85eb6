"""Build the documentation's site: `make docs`, or `python docs/build_site.py [--into FOLDER]`.

The pages are plain Markdown as any host of the repository shows it. Before zensical builds them they are put together
in one folder: docs/ itself, the notes of benchmarks/ and pages of the root, notebooks as Markdown, examples where a
line links to one, equations (`$ $` and blocks named math) as MathML, which browsers draw without a script. The API
reference is read from docstrings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
OF_THE_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
STYLE = ".equation { margin: 1.2em 0; overflow-x: auto; }\n"
_BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\$([^$\n]+)\$")
_EXAMPLE = re.compile(r"^\[(examples/\w+\.py)\]\(\.\./examples/\w+\.py\)$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\((?!\w+:|#)([^)\s]+)\)")


def main() -> None:
    """Put the pages together and build them; any warning is an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "build", help="a folder: pages/ and site/ are made in it")
    into = parser.parse_args().into.resolve()
    shutil.rmtree(into, ignore_errors=True)
    put_together(into / "pages")
    (into / "pages/site.css").write_text(STYLE, encoding="utf-8")
    (into / "zensical.toml").write_text(configuration(), encoding="utf-8")
    sys.exit(subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=into).returncode)


def put_together(pages: Path) -> None:
    """Write every page of the site to the folder `pages`."""
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "*.toml", "__pycache__"))
    shutil.copytree(ROOT / "benchmarks", pages / "benchmarks", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in OF_THE_ROOT:
        shutil.copy(ROOT / name, pages / name)
    (pages / "reference/settings.md").write_text(settings(), encoding="utf-8")
    (pages / "reference/commands.md").write_text(commands(), encoding="utf-8")
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        place = pages / notebook.relative_to(ROOT / "docs").with_suffix(".md")
        place.write_text(as_markdown(notebook), encoding="utf-8")
    for page in sorted(pages.rglob("*.md")):
        text = with_equations(with_examples(page.read_text(encoding="utf-8")))
        page.write_text(with_links(text, page, pages), encoding="utf-8")


def as_markdown(notebook: Path) -> str:
    """The cells of a notebook as a page."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts) + "\n"


def settings() -> str:
    """A page of every setting with its default and its comment: params.yaml itself."""
    return f"# Settings\n\n`params.yaml` of the default pipeline.\n\n```yaml\n{(ROOT / 'params.yaml').read_text()}```\n"


def commands() -> str:
    """A page of every command with its options, as `--help` has them."""
    words = ["typer", "rag_diffusion.terminal.app", "utils", "docs", "--name", "rag-diffusion", "--title", "Commands"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def with_equations(text: str) -> str:
    """A page's `text` with its LaTeX as MathML; code is left alone."""
    text = _BLOCK.sub(lambda found: f"<div class='equation'>{convert(found[1], display='block')}</div>", text)
    parts = _CODE.split(text)
    parts[::2] = [_INLINE.sub(lambda found: convert(found[1]), part) for part in parts[::2]]
    return "".join(parts)


def with_examples(text: str) -> str:
    """A page's `text` with the code of an example where a line is a link to it."""
    return _EXAMPLE.sub(lambda found: f"```python\n{(ROOT / found[1]).read_text(encoding='utf-8')}```", text)


def with_links(text: str, page: Path, pages: Path) -> str:
    """A page's `text` with links as they are in the site; what is no page of it becomes its name as code.

    Args:
        text: Markdown.
        page: its file below `pages`.
        pages: all of them.
    """
    origin = ROOT if page.name in OF_THE_ROOT else ROOT / "docs" / page.relative_to(pages).parent
    if page.parent.name == "benchmarks":
        origin = ROOT / "benchmarks"

    def link(found: re.Match[str]) -> str:
        path, sign, anchor = found[3].partition("#")
        target = (origin / path).resolve().relative_to(ROOT)
        inside = pages / (target.relative_to("docs") if target.parts[0] == "docs" else target)
        inside = inside.with_suffix(".md") if inside.suffix == ".ipynb" else inside
        if not inside.is_file():
            return f"`{target}`" if (ROOT / target).exists() else found[0]
        return f"{found[1]}[{found[2]}]({os.path.relpath(inside, page.parent)}{sign}{anchor})"

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def configuration() -> str:
    """docs/zensical.toml, with this checkout as the place of the code."""
    text = (ROOT / "docs/zensical.toml").read_text(encoding="utf-8").replace("ROOT", str(ROOT))
    tomllib.loads(text)
    return text


if __name__ == "__main__":
    main()
