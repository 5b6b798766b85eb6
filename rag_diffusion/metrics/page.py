"""A page of pictures that a person can judge: one row a prompt, one column a variant, verdicts beneath."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag_diffusion.arrays import Doubles, Ints, Pixels
from rag_diffusion.readers.images import encode_png

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; max-width: 110rem }
table { border-collapse: collapse; margin-bottom: 2.5rem }
th { font-weight: 500; font-size: 12px; color: #666; padding: 4px; vertical-align: bottom }
td { padding: 4px; text-align: center; vertical-align: top }
td.prompt { text-align: left; width: 16rem; padding-right: 1rem }
td.prompt small { color: #777 }
img { width: 96px; height: 96px; image-rendering: pixelated; border: 1px solid #ddd; display: block; background: #fff }
.neighbors img { width: 56px; height: 56px; display: inline-block }
.right { color: #1b6e53 } .wrong { color: #b3541e } small { font-size: 11px }
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture (H, W, 3), and whether it was recognised as the entity and as the style."""

    pixels: Pixels
    entity: bool
    style: bool


@dataclass(frozen=True, kw_only=True)
class PageRow:
    """One prompt.

    Attributes:
        prompt: its text.
        target: entity and style in words.
        neighbors: (K, H, W, 3) what the retriever found.
        cells: variant -> picture.
    """

    prompt: str
    target: str
    neighbors: Pixels
    cells: Mapping[str, Cell]


def picture_page(heading: str, note: str, sections: Mapping[str, Sequence[PageRow]]) -> str:
    """One HTML file without any other.

    Args:
        heading: on top.
        note: what was measured, and how the rows were chosen.
        sections: name -> rows.

    Returns:
        HTML.
    """
    body = "".join(_section(name, rows) for name, rows in sections.items())
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(heading)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(heading)}</h1><p>{html.escape(note)}</p>{body}</html>\n"
    )


def ranks(margins: Doubles) -> Ints:
    """Order of N images, best first: by the worse of their two ranks, of entity and of style.

    Args:
        margins: (N, 2) of `Judge.margins`.

    Returns:
        (N,) numbers of the images.
    """
    worse = margins.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")  # images that are worse
    order: Ints = np.lexsort((-worse.sum(axis=1), -worse.min(axis=1)))
    return order


def _section(name: str, rows: Sequence[PageRow]) -> str:
    columns = list(dict.fromkeys(variant for row in rows for variant in row.cells))
    heads = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in columns)
    lines = "".join(_row(row, columns) for row in rows)
    return f"<h2>{html.escape(name)}</h2><table><tr><th></th><th>retrieved neighbors</th>{heads}</tr>{lines}</table>"


def _row(row: PageRow, columns: Sequence[str]) -> str:
    neighbors = "".join(_picture(image) for image in row.neighbors)
    cells = "".join(_cell(row.cells.get(column)) for column in columns)
    prompt = f"{html.escape(row.prompt)}<br><small>{html.escape(row.target)}</small>"
    return f"<tr><td class='prompt'>{prompt}</td><td class='neighbors'>{neighbors}</td>{cells}</tr>"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td><small>no neighbors</small></td>"
    marks = " ".join(
        f"<small class='{'right' if good else 'wrong'}'>{'✓' if good else '✗'} {word}</small>"
        for word, good in (("entity", cell.entity), ("style", cell.style))
    )
    return f"<td>{_picture(cell.pixels)}{marks}</td>"


def _picture(pixels: Pixels) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}'>"
