"""How one neighbor is used: when, at which attended maps, and where in the picture. Every form that a caller may give,
brought to the one that provenance holds.

    weight of neighbor n at denoising step i, attended map l and cell p  =  w_n * step_n(i) * map_n(l) * mask_n(p)

Its logarithm is added to the attention's logits (`models.neighbor_attention`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError

Points = tuple[tuple[float, float], ...]
WeightByStep = str | tuple[float, float] | Sequence[tuple[float, float]]
WeightByMap = str | Mapping[int, float] | Sequence[tuple[int, float]]
Box = tuple[float, float, float, float]
Mask = str | Path | Image.Image | np.ndarray[Any, Any] | Box

CURVES: dict[str, Points] = {
    "constant": (),
    "linear": ((0.0, 1.0), (1.0, 0.0)),
    "early": ((0.4, 1.0), (0.6, 0.0)),
    "late": ((0.4, 0.0), (0.6, 1.0)),
}
BOTH = "both"
_PRESETS = (BOTH, "style", "layout")
_BOXES: dict[str, Box] = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
}


def as_curve(given: WeightByStep) -> Points:
    """A weight by step as points of a piecewise linear curve.

    Args:
        given: `constant`, `linear` (falls from 1 to 0), `early` (falls around the middle), `late` (rises there); an
            interval (start, end) of the steps; points (fraction, weight) with rising fractions, two at one fraction
            being a jump; or text: a name, `0.2,0.6` for an interval, `0:1,0.5:0.3` for points. Fraction 0 is the first
            step and 1 the last.

    Returns:
        (fraction, weight) pairs, constant outside of them; none at all is weight 1 throughout.

    Raises:
        ValueError: it is none of these, a fraction is outside of [0, 1] or falls, or a weight is negative.
    """
    what = (
        f"weight_by_step: expected {', '.join(CURVES)}, an interval (start, end) or points (fraction, weight) with "
        f"rising fractions from 0 to 1 and finite weights of at least 0, got {given!r}"
    )
    if isinstance(given, str) and given in CURVES:
        return CURVES[given]
    try:
        entries: list[Any] = _split(given) if isinstance(given, str) else list(given)
        if len(entries) == 2 and not any(isinstance(entry, Sequence) for entry in entries):
            start, end = map(float, entries)
            if not 0 <= start < end <= 1:
                raise ValueError
            return (*[(start, 0.0)] * (start > 0), (start, 1.0), *[(end, 1.0), (end, 0.0)] * (end < 1))
        points = tuple((float(fraction), float(weight)) for fraction, weight in entries)
    except (TypeError, ValueError):
        raise ValueError(what) from None
    fractions, weights = [fraction for fraction, _ in points], [weight for _, weight in points]
    fits = all(0 <= fraction <= 1 for fraction in fractions) and fractions == sorted(fractions)
    if not (fits and all(math.isfinite(weight) and weight >= 0 for weight in weights)):
        raise ValueError(what)
    return points


def step_weight(curve: Points, step: int, num_steps: int) -> float:
    """The weight at a denoising step.

    Args:
        curve: of `as_curve`.
        step: its number, from 0.
        num_steps: T.
    """
    place = step / (num_steps - 1) if num_steps > 1 else 0.0
    before = [point for point in curve if point[0] <= place]
    after = [point for point in curve if point[0] > place]
    if not before or not after:
        return before[-1][1] if before else after[0][1] if after else 1.0
    (left, low), (right, high) = before[-1], after[0]
    return low + (high - low) * (place - left) / (right - left)


def as_map_weights(given: WeightByMap) -> str | tuple[tuple[int, float], ...]:
    """A weight by attended map as a preset's name or as pairs.

    Args:
        given: `both`, `style` (fine maps alone) or `layout` (coarse ones alone); side of a map in cells -> weight, the
            others keep 1; pairs of these; or text: a preset, or `16:1,8:0.5`.

    Returns:
        The preset, or (side, weight) pairs, finest first.

    Raises:
        ValueError: it is none of these, or a weight is negative.
    """
    what = (
        f"weight_by_map: expected {', '.join(_PRESETS)} or side of a map -> finite weight of at least 0, as {{16: 1}}, "
        f"got {given!r}"
    )
    if isinstance(given, str) and given in _PRESETS:
        return given
    try:
        entries = _split(given) if isinstance(given, str) else given.items() if isinstance(given, Mapping) else given
        pairs = {int(side): float(weight) for side, weight in entries}
    except (TypeError, ValueError):
        raise ValueError(what) from None
    if not pairs or not all(math.isfinite(weight) and weight >= 0 for weight in pairs.values()):
        raise ValueError(what)
    return tuple(sorted(pairs.items(), reverse=True))


def map_weight(weights: str | tuple[tuple[int, float], ...], side: int, sides: Sequence[int]) -> float:
    """The weight at an attended map.

    Args:
        weights: of `as_map_weights`.
        side: the larger side of the map, in cells.
        sides: of all attended maps. Those above the geometric mean of the largest and the smallest are fine.

    Raises:
        ValueError: no attended map has such a side, or there is no fine one beside a coarse one.
    """
    known = sorted(set(sides), reverse=True)
    if isinstance(weights, str):
        if weights == BOTH:
            return 1.0
        if len(known) == 1:
            raise ValueError(
                f"weight_by_map: expected both, as this generator attends at maps of {known[0]} alone, got {weights}"
            )
        fine = side**2 > known[0] * known[-1]
        return float(fine == (weights == "style"))
    if wrong := sorted({named for named, _ in weights} - set(known)):
        raise ValueError(f"weight_by_map: expected sides of attended maps, {known}, got {wrong}")
    return dict(weights).get(side, 1.0)


def as_mask(given: Mask) -> Box | Pixels:
    """A mask as a box, or as levels.

    Args:
        given: `left`, `right`, `top` or `bottom` half; a box (left, top, right, bottom) in shares of the picture, or
            the same as text; a picture or its file, where the neighbor acts in white (and opaque) places; an array
            (H, W) of bool, uint8, or floats from 0 to 1. Pictures and arrays are of any size.

    Returns:
        The box, or (H, W) uint8.

    Raises:
        ValueError: it is none of these, empty, or outside of the picture.
        DataError: the file is no picture.
    """
    if isinstance(given, str):
        named = _BOXES.get(given) or _box_of(given)
        given = Path(given) if named is None else named
    if isinstance(given, Path):
        given = _read(given)
    if isinstance(given, Image.Image):
        opaque = given.convert("RGBA").getchannel("A")
        given = np.asarray(given.convert("RGB").convert("L")).astype(np.float32) * np.asarray(opaque) / 255**2
    if not isinstance(given, np.ndarray):
        return _box(given)
    levels = given.astype(np.float32) / (255 if given.dtype == np.uint8 else 1)
    if levels.ndim != 2:
        raise ValueError(f"mask: expected a picture or an array (H, W), got shape {given.shape}")
    if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 1):
        raise ValueError("mask: expected bool, uint8, or floats from 0 to 1, got numbers outside of that")
    cells = np.rint(levels * 255).astype(np.uint8)
    if not cells.any():
        raise ValueError("mask: expected one place at least where the neighbor acts, got an empty one; leave it out")
    return cells


def mask_pixels(mask: Box | Pixels, size: int | tuple[int, int]) -> Pixels:
    """Levels (H, W) uint8, 255 where the neighbor acts, resampled by area.

    Args:
        mask: of `as_mask`, stretched over the drawing.
        size: side of a square drawing, or (H, W), in pixels.

    Raises:
        ValueError: nothing is left of it at this size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if isinstance(mask, np.ndarray):
        if mask.shape == (height, width):
            return mask
        levels = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))
        if not levels.any():
            raise ValueError(f"mask: expected more than a dot, got one that is nothing at {size} px; make it larger")
        return levels
    left, top, right, bottom = mask
    covered = [
        np.clip(np.minimum(end * side, np.arange(side) + 1) - np.maximum(start * side, np.arange(side)), 0, 1)
        for start, end, side in ((top, bottom, height), (left, right, width))
    ]
    filled: Pixels = np.rint(255 * np.outer(*covered)).astype(np.uint8)
    return filled


def check_aspect(mask: Box | Pixels | None, size: tuple[int, int]) -> None:
    """Refuse a mask that would be stretched over a drawing unasked.

    Args:
        mask: of `as_mask`; a square one fits drawings of every aspect.
        size: (H, W) of the drawing.

    Raises:
        ValueError: it is neither square nor of the drawing's aspect.
    """
    if not isinstance(mask, np.ndarray) or mask.shape[0] == mask.shape[1]:
        return
    (rows, columns), (height, width) = mask.shape, size
    if abs(rows * width - columns * height) > max(rows * width, columns * height) / 50:
        raise ValueError(
            f"mask: expected a square picture or array, or one of the drawing's aspect {height} x {width}, got shape "
            f"{mask.shape}"
        )


def into_mask(picture: Image.Image, mask: Pixels) -> Pixels:
    """A picture as large as fits into the box around what a mask allows, on white.

    Args:
        picture: RGB, of any size.
        mask: (H, W) levels; the box is around those of half the highest.

    Returns:
        (H, W, 3) uint8.
    """
    allowed = mask >= mask.max() / 2
    rows, columns = np.flatnonzero(allowed.any(1)), np.flatnonzero(allowed.any(0))
    height, width = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    scale = min(width / picture.width, height / picture.height)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    canvas = Image.new("RGB", mask.shape[::-1], (255, 255, 255))
    place = (int(columns[0]) + (width - shape[0]) // 2, int(rows[0]) + (height - shape[1]) // 2)
    canvas.paste(picture.resize(shape, Image.Resampling.BICUBIC), place)
    return np.asarray(canvas)


def _split(text: str) -> list[Any]:
    """`a:b,c:d` as pairs of texts, `a,b` as texts."""
    parts = [part.strip() for part in text.split(",")]
    return [tuple(part.split(":")) if ":" in part else float(part) for part in parts]


def _box_of(text: str) -> Box | None:
    """`0,0,.5,1` as a box; None where it is another text."""
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return _box(sides)


def _box(given: Any) -> Box:
    try:
        left, top, right, bottom = (float(side) for side in given)
    except (TypeError, ValueError):
        raise ValueError(
            f"mask: expected {', '.join(_BOXES)}, a box (left, top, right, bottom) in shares of the picture, a square "
            f"picture, its file, or an array, got {given!r}"
        ) from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"mask: expected a box (left, top, right, bottom) within 0 and 1, not empty, got {given!r}")
    return left, top, right, bottom


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.copy()
    except OSError as error:
        raise DataError(
            f"mask {path}: expected a picture, or one of {', '.join(_BOXES)}, got {error.strerror or 'another file'}"
        ) from None
