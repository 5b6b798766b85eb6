"""A lineage as a drawing on a page: a box for each step, lines for what it read; a picture and its neighbors below.

A step stands in the row of its longest way from a source, so that nine stages fit an upright page.
"""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence

from rag_diffusion.layout import RUNS
from rag_diffusion.lineage import Lineage, LineageStep, ShownNeighbor

_WIDTH, _HEIGHT = 210, 62  # of a box
_ACROSS, _DOWN = 24, 34  # between boxes
_EDGE, _TOP = 20, 50
_PICTURE, _THUMB = 128, 84  # pixels
_PAGE = (190, 277)  # millimetres of an A4 page inside of its margins

Corners = Mapping[str, tuple[int, int]]  # upper left ones of the boxes, by step


def as_svg(lineage: Lineage) -> str:
    """`lineage` as SVG that fits a page."""
    corners = _corners(lineage)
    bottom = max((y for _, y in corners.values()), default=_TOP - _HEIGHT) + _HEIGHT
    parts = [f"<text x='{_EDGE}' y='26' font-size='15'>{html.escape(lineage.result)}</text>"]
    parts += [_line(corners[up], corners[step.name]) for step in lineage.steps.values() for up in step.upstream]
    parts += [_box(step, *corners[step.name]) for step in lineage.steps.values()]
    right = max((x for x, _ in corners.values()), default=_EDGE) + _WIDTH
    if lineage.picture:
        pictures, right, bottom = _pictures(lineage, corners, bottom, right)
        parts += pictures
    width, height = right + _EDGE, bottom + _EDGE
    scale = min(_PAGE[0] / width, _PAGE[1] / height)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width * scale:.1f}mm' "
        f"height='{height * scale:.1f}mm' font-family='system-ui, sans-serif'>"
        f"<rect width='100%' height='100%' fill='white'/>{''.join(parts)}</svg>\n"
    )


def _corners(lineage: Lineage) -> dict[str, tuple[int, int]]:
    """Upper left corners: a row for each length of the longest way from a source."""
    rows: dict[str, int] = {}
    columns: Counter[int] = Counter()
    corners = {}
    for step in lineage.steps.values():
        row = rows[step.name] = 1 + max((rows[name] for name in step.upstream if name in rows), default=-1)
        corners[step.name] = (_EDGE + columns[row] * (_WIDTH + _ACROSS), _TOP + row * (_HEIGHT + _DOWN))
        columns[row] += 1
    return corners


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    return _curve((start[0] + _WIDTH // 2, start[1] + _HEIGHT), (end[0] + _WIDTH // 2, end[1]))


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    middle = (start[1] + end[1]) // 2
    curve = f"M{start[0]},{start[1]} C{start[0]},{middle} {end[0]},{middle} {end[0]},{end[1]}"
    return f"<path d='{curve}' fill='none' stroke='#7fb8a4' stroke-width='1.5'/>"


def _box(step: LineageStep, x: int, y: int) -> str:
    version = next((md5[:12] for path, md5 in step.outs.items() if not path.startswith(f"{RUNS}/")), "")
    facts = {"run": step.record.get("run_id"), "git": step.record.get("git_commit")}
    origin = "   ".join(f"{name} {str(value)[:8]}" for name, value in facts.items() if value)
    box = f"<rect x='{x}' y='{y}' width='{_WIDTH}' height='{_HEIGHT}' rx='6' fill='#f3f7f5' stroke='#1b6e53'/>"
    name = f"<text x='{x + 10}' y='{y + 19}' font-size='13' font-weight='600'>{html.escape(step.name)}</text>"
    lines = [
        f"<text x='{x + 10}' y='{y + 36 + 17 * number}' font-size='11' fill='#555'>{html.escape(text)}</text>"
        for number, text in enumerate((f"out {version}", origin))
    ]
    return box + name + "".join(lines)


def _pictures(lineage: Lineage, corners: Corners, bottom: int, right: int) -> tuple[list[str], int, int]:
    """The neighbors in a row, the picture below them, and how far to the right and down they reach."""
    top = bottom + _DOWN
    lefts = [_EDGE + number * (_WIDTH + _ACROSS) for number in range(len(lineage.neighbors))]
    below = top + (_THUMB + 48 + _DOWN if lineage.neighbors else 0)
    parts = [_neighbor(neighbor, left, top) for neighbor, left in zip(lineage.neighbors, lefts, strict=True)]
    parts += [_curve((left + _THUMB // 2, top + _THUMB + 44), (_EDGE + _PICTURE // 2, below)) for left in lefts]
    parts += [
        _curve((corners[name][0] + _WIDTH // 2, corners[name][1] + _HEIGHT), (_EDGE + _PICTURE // 2, below))
        for name in _last(lineage.steps)
    ]
    parts.append(_image(lineage.picture, _EDGE, below, _PICTURE))
    parts += _texts(lineage.notes[:1], _EDGE + _PICTURE + 12, below + 16)
    return parts, max([right, *(left + _WIDTH for left in lefts)]), below + _PICTURE


def _last(steps: Mapping[str, LineageStep]) -> Sequence[str]:
    """Steps that no other one reads."""
    read = {name for step in steps.values() for name in step.upstream}
    return [name for name in steps if name not in read]


def _neighbor(neighbor: ShownNeighbor, left: int, top: int) -> str:
    lines = (neighbor.pair_id, neighbor.caption, f"{neighbor.licence}, attention {neighbor.attention:.2f}")
    return _image(neighbor.image, left, top, _THUMB) + "".join(_texts(lines, left, top + _THUMB + 13))


def _texts(lines: Sequence[str], x: int, y: int) -> list[str]:
    return [
        f"<text x='{x}' y='{y + 14 * number}' font-size='10' fill='#555'>{html.escape(text[:42])}</text>"
        for number, text in enumerate(lines)
    ]


def _image(content: bytes, x: int, y: int, side: int) -> str:
    frame = f"<rect x='{x}' y='{y}' width='{side}' height='{side}' fill='#fafafa' stroke='#d6d6d6'/>"
    if not content:
        return f"{frame}<text x='{x + 6}' y='{y + side // 2}' font-size='10' fill='#555'>not here</text>"
    source = base64.b64encode(content).decode()
    return f"{frame}<image x='{x}' y='{y}' width='{side}' height='{side}' href='data:image/png;base64,{source}'/>"
