"""How well a clip goes on: does the thing stay itself, does it move, does it flicker, do its colours drift.

    likeness    cos(phi(g_n), phi(f_1))
    identity    the same with phi less its mean over the clips' first frames, since any two drawings are alike; and
                cos(phi(g_n), phi(f_n)) with the real clip's own frame
    motion      mean_n |g_n - g_{n-1}|                    a still copy has none
    flow        how far 8 x 8 blocks with something in them move from frame to frame, in pixels, by block matching: what
                shimmers differs from frame to frame, and goes nowhere
    flicker     mean_n |g_{n+1} - 2 g_n + g_{n-1}|
    drift       || s(g_n) - s(g_1) ||,  s: mean and deviation of each colour channel

g are drawn frames, f the real ones, g_1 = f_1; phi are features of EfficientNet-Lite2. Pixels are in [0, 1].

Source: CLIP similarity to the first frame as identity, e.g. VBench (Huang et al., CVPR 2024), here with the project's
own features; SDEdit: Meng et al., ICLR 2022.

Shapes: C clips, N frames, H/W picture, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Pixels
from rag_diffusion.metrics.bootstrap import ClusterBootstrap, Interval, interval

Features = Callable[[Pixels], Floats]
MEASURES = ("likeness", "identity", "identity_real", "motion", "flow", "flicker", "drift")
_BLOCK, _REACH, _STRUCTURE = 8, 3, 0.05  # side of a block, how far it is looked for, pixels; its least deviation
_LOOKED_AT = 4  # frames at which features are taken, the last one among them


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """Measures of C clips, each (C,); those that grow with the clip are of its last frame.

    Attributes:
        likeness: of the last frame to the first, by features as they are.
        identity: the same by features less their mean.
        identity_real: of frames to the real ones at their places, mean.
        motion: mean absolute difference of frames that follow each other.
        flow: mean displacement of blocks between them, pixels.
        flicker: mean absolute second difference.
        drift: of mean and deviation of the colours, of the last frame.
    """

    likeness: Doubles
    identity: Doubles
    identity_real: Doubles
    motion: Doubles
    flow: Doubles
    flicker: Doubles
    drift: Doubles


def looked_at(num_frames: int) -> list[int]:
    """Places of the frames whose features are taken, from 0; `num_frames` is N."""
    return sorted({int(place) for place in np.linspace(0, num_frames - 1, _LOOKED_AT + 1).round()[1:]})


class ClipJudge:
    """Measures against C real clips.

    Args:
        real: (C, N, H, W, 3).
        features: (n, H, W, 3) to (n, D).
    """

    def __init__(self, real: Pixels, features: Features) -> None:
        self._features, self._places = features, looked_at(real.shape[1])
        first = features(np.ascontiguousarray(real[:, 0]))
        self._mean = first.mean(0, keepdims=True)
        self._first, self._plain = _unit(first - self._mean), _unit(first)
        self._looks = self._look(real)

    def scores(self, drawn: Pixels) -> ClipScores:
        """Measures of `drawn`, (C, N, H, W, 3), whose first frames are the real ones."""
        features = self._look(drawn)
        looks, real = (_unit(one - self._mean) for one in (features, self._looks))
        frames = drawn.astype(np.float32) / 255
        steps = np.diff(frames, axis=1)
        style = np.concatenate([frames.mean((2, 3)), frames.std((2, 3))], -1)  # (C, N, 6)
        return ClipScores(
            likeness=(_unit(features[:, -1]) * self._plain).sum(-1).astype(np.float64),
            identity=(looks[:, -1] * self._first).sum(-1).astype(np.float64),
            identity_real=(looks * real).sum(-1).mean(1).astype(np.float64),
            motion=np.abs(steps).mean((1, 2, 3, 4), dtype=np.float64),
            flow=flow(frames.mean(-1)),
            flicker=np.abs(np.diff(steps, axis=1)).mean((1, 2, 3, 4), dtype=np.float64),
            drift=np.linalg.norm(style[:, -1] - style[:, 0], axis=-1).astype(np.float64),
        )

    def _look(self, clips: Pixels) -> Floats:
        """(C, n, D) features at the places that are looked at."""
        chosen = np.ascontiguousarray(clips[:, self._places])
        return self._features(chosen.reshape(-1, *chosen.shape[2:])).reshape(*chosen.shape[:2], -1)


def flow(frames: Floats) -> Doubles:
    """Mean displacement of blocks from frame to frame, by block matching (Jain and Jain 1981).

    A block moves where another place fits better by a tenth at least; blocks without structure do not count.

    Args:
        frames: (C, N, H, W) grey in [0, 1]; H and W multiples of 8.

    Returns:
        (C,) pixels.
    """
    before, after = frames[:, :-1], frames[:, 1:]
    padded = np.pad(before, ((0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")
    height, width = frames.shape[2:]
    shifts = sorted(
        ((y, x) for y in range(-_REACH, _REACH + 1) for x in range(-_REACH, _REACH + 1)),
        key=lambda s: s[0] ** 2 + s[1] ** 2,
    )
    best, moved = np.zeros(0), np.zeros(0)
    for y, x in shifts:
        place = padded[:, :, _REACH + y : _REACH + y + height, _REACH + x : _REACH + x + width]
        error = _blocks(np.abs(after - place)).mean(-1)
        if not y and not x:
            best, moved = error, np.zeros_like(error)
            least = 0.9 * error
            continue
        better = error < np.minimum(best, least)
        best, moved = np.where(better, error, best), np.where(better, np.hypot(y, x), moved)
    counts = _blocks(after).std(-1) > _STRUCTURE
    found: Doubles = (moved * counts).sum((1, 2, 3), dtype=np.float64) / np.maximum(counts.sum((1, 2, 3)), 1)
    return found


def _blocks(frames: Floats) -> Floats:
    """(C, n, H, W) -> (C, n, H/8, W/8, 64)."""
    count, steps, height, width = frames.shape
    cells = frames.reshape(count, steps, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).swapaxes(3, 4)
    return cells.reshape(*cells.shape[:4], -1)


def table(
    scores: Mapping[str, ClipScores], families: Sequence[str], *, draws: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Means with intervals over families, and ratios to the real clips' own: variant -> measure -> interval.

    Args:
        scores: by variant, `real` among them.
        families: of the C clips.
        draws: of the bootstrap.
        seed: of the draws.
    """
    bootstrap = ClusterBootstrap(families, draws=draws, seed=seed)
    real, found = scores["real"], dict[str, dict[str, dict[str, float]]]()
    for name, own in scores.items():
        rows = {measure: bootstrap.interval(getattr(own, measure)) for measure in MEASURES}
        for measure in ("likeness", "identity", "motion", "flow", "flicker"):
            rows[f"{measure}_to_real"] = ratio(bootstrap, getattr(own, measure), getattr(real, measure))
        if "last" in scores:
            rows["drift_to_last"] = ratio(bootstrap, own.drift, scores["last"].drift)
        found[name] = {measure: row.as_dict() for measure, row in rows.items()}
    return found


def ratio(bootstrap: ClusterBootstrap, dividend: Doubles, divisor: Doubles) -> Interval:
    """Mean over mean, with its interval.

    Args:
        bootstrap: its draws.
        dividend: (C,).
        divisor: (C,).
    """
    whole = float(dividend.mean() / divisor.mean())
    return interval(whole, bootstrap.means(dividend) / bootstrap.means(divisor))


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.maximum(length, 1e-8)
    return unit
