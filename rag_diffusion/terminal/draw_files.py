"""What `rag-diffusion draw` writes: pictures with their provenance, drawings as vectors, a sheet, a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rag_diffusion.errors import ConfigError
from rag_diffusion.extras import need
from rag_diffusion.files import atomic_write
from rag_diffusion.terminal.printable import printable

if TYPE_CHECKING:
    from rag_diffusion.sampling.provenance import Sign
    from rag_diffusion.sampling.studio import Picture

JPEG = (".jpg", ".jpeg")
STANDARD_OUTPUT = Path("-")


class DrawnFiles:
    """Files of what was drawn, and what is said of it.

    Args:
        out: a folder, NAME.png, or `STANDARD_OUTPUT`.
        compare: whether a sheet of all variants is written at the end.
        explain: whether a page about the neighbors is.
        svg: whether a traced drawing stands beside each picture.
        quiet: nothing is said of the neighbors.

    Attributes:
        sign: puts credentials into each picture; None puts none.
    """

    def __init__(self, out: Path, *, compare: bool, explain: bool, svg: bool, quiet: bool) -> None:
        self._out, self._compare, self._explain, self._svg, self._quiet = out, compare, explain, svg, quiet
        self._single_file = out.suffix.lower() in (".png", *JPEG)
        self.sign: Sign | None = None
        self._pictures: list[Picture] = []

    def check(self, count: int) -> None:
        """Refuse before anything is drawn what could not be written, of `count` pictures.

        Raises:
            ConfigError: several pictures and one place, or more than a picture for standard output.
            MissingExtraError: a vector drawing is asked for, and vtracer is not installed.
        """
        if self._svg:
            need("svg", "vtracer")
        single = self._out == STANDARD_OUTPUT or self._single_file
        if single and (count > 1 or self._compare):
            raise ConfigError(f"--out {self._out}: expected a folder for {count} pictures, got one file")
        if self._out == STANDARD_OUTPUT and (self._explain or self._svg):
            raise ConfigError("--out -: expected a folder with --explain or --svg, got standard output")
        if self._out.suffix and not self._single_file and not self._out.is_dir():
            raise ConfigError(f"--out {self._out}: expected a folder, NAME.png or NAME.jpg, which keep provenance")

    def write(self, picture: Picture) -> None:
        """Write `picture`, and say where it is and what it was made from."""
        from rag_diffusion.sampling.provenance import to_png
        from rag_diffusion.sampling.studio import file_name

        if self._compare or self._explain:
            self._pictures.append(picture)
        if self._out == STANDARD_OUTPUT:
            file = to_png(picture.pixels, picture.provenance)
            sys.stdout.buffer.write(file if self.sign is None else self.sign(file, picture.provenance))
            self._say("-", picture)
            return
        origin = picture.provenance
        name = file_name(origin.prompt, int(origin.seed or 0), picture.variant if self._compare else None)
        path = picture.save(self._out if self._single_file else self._out / name, self.sign)
        if self._svg:
            from rag_diffusion.sampling.trace import as_svg

            atomic_write(path.with_suffix(".svg"), as_svg(picture.pixels, origin))
        self._say(str(path), picture)

    def finish(self) -> None:
        """Write the sheet and the page, where they are wanted."""
        folder = self._out.parent if self._single_file else self._out
        if self._compare:
            _say(f"sheet     {_sheet(self._pictures, folder)}")
        if self._explain:
            from rag_diffusion.sampling.explain_page import as_page
            from rag_diffusion.sampling.studio import free_path

            page = free_path(folder / "explain.html")
            atomic_write(page, as_page(self._pictures, "What made these pictures"))
            _say(f"page      {page}")

    def _say(self, where: str, picture: Picture) -> None:
        """A line for a picture, and one for each of its neighbors."""
        from rag_diffusion.sampling.credit import NO_LICENCE, credit

        origin = picture.provenance
        if where != "-":
            typer.echo(where)
        if self._quiet:
            return
        chosen = "by chance" if picture.variant == "random" else "by hand"
        for neighbor in origin.neighbors:
            score = chosen if neighbor.score is None else f"score {neighbor.score:.2f}"
            facts = (printable(neighbor.pair_id), score, f"{neighbor.attention:.0%} of attention")
            licence = printable(neighbor.licence) or NO_LICENCE
            _say(f"          {printable(neighbor.caption)} ({', '.join((*facts, licence))})")
        for sentence in credit(origin.neighbors):
            _say(f"licence   {printable(sentence)}")
        for text in origin.settings.get("trouble", ()):
            _say(f"note      {printable(text)}")


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _sheet(pictures: Sequence[Picture], folder: Path) -> Path:
    """All variants of each prompt and seed in a row."""
    from rag_diffusion.sampling.sheets import comparison_sheet
    from rag_diffusion.sampling.studio import free_path

    variants = list(dict.fromkeys(picture.variant for picture in pictures))
    rows = [pictures[start : start + len(variants)] for start in range(0, len(pictures), len(variants))]
    titles = [f"{row[0].provenance.prompt} (seed {row[0].provenance.seed})" for row in rows]
    names = [{"none": "without", "given": "by hand"}.get(name, name) for name in variants]
    sheet = comparison_sheet(
        "The same noise, other neighbors", names, titles, [[picture.pixels for picture in row] for row in rows]
    )
    path = free_path(folder / "comparison.png")
    sheet.save(path)
    return path
