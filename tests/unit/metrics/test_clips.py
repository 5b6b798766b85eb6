"""Measures of clips: a still copy does not move, a fade drifts, the real clip is itself; rollouts of many at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.arrays import Floats, Pixels
from rag_diffusion.metrics.clip_rollouts import VARIANTS, ClipTask, roll_out
from rag_diffusion.metrics.clips import ClipJudge, flow, looked_at, table
from rag_diffusion.models.generator import Generator
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from tests.clip_files import moving_disc


def colors_and_places(pixels: Pixels) -> Floats:
    return pixels[:, ::8, ::8].reshape(len(pixels), -1).astype(np.float32)


@pytest.fixture
def real() -> Pixels:
    return np.stack([moving_disc(8, 32, color) for color in ("red", "green", "blue", "black")])


def test_the_real_clip_is_itself_and_a_still_copy_does_not_move(real: Pixels) -> None:
    judge = ClipJudge(real, colors_and_places)
    own, still = judge.scores(real), judge.scores(np.repeat(real[:, :1], 8, axis=1))
    assert np.allclose(own.identity_real, 1, atol=1e-5)
    assert (own.motion > 0).all()
    assert not still.motion.any()
    assert not still.flicker.any()
    assert not still.drift.any()
    assert np.allclose(still.identity, 1, atol=1e-5)
    assert (own.identity < still.identity).all()


def test_a_fade_drifts_and_noise_flickers(real: Pixels) -> None:
    judge, rng = ClipJudge(real, colors_and_places), np.random.default_rng(0)
    fade = (real * np.linspace(1, 0.4, 8)[None, :, None, None, None]).astype(np.uint8)
    noisy = np.clip(real + rng.normal(0, 30, real.shape), 0, 255).astype(np.uint8)
    own = judge.scores(real)
    assert (judge.scores(fade).drift > 5 * own.drift + 0.1).all()
    assert (judge.scores(noisy).flicker > 2 * own.flicker).all()


def test_the_table_has_ratios_to_the_real_clips_with_intervals_by_family(real: Pixels) -> None:
    judge = ClipJudge(real, colors_and_places)
    slow = np.stack([moving_disc(8, 32, color, speed=0.5) for color in ("red", "green", "blue", "black")])
    slow[:, 0] = real[:, 0]
    scores = {"real": judge.scores(real), "last": judge.scores(slow)}
    rows = table(scores, ["a", "a", "b", "c"], draws=200, seed=0)
    assert rows["real"]["motion_to_real"]["mean"] == 1
    assert rows["last"]["drift_to_last"]["mean"] == 1
    slower = rows["last"]["motion_to_real"]
    assert 0 < slower["low"] <= slower["mean"] <= slower["high"] < 1


def test_flow_is_how_far_a_thing_goes_and_shimmer_goes_nowhere() -> None:
    rng = np.random.default_rng(0)
    texture = rng.random((64, 80)).repeat(2, 0).repeat(2, 1)[:64, :80]
    moving = np.stack([texture[:, 2 * number : 2 * number + 64] for number in range(5)])
    shimmer = np.clip(np.stack([texture[:, :64]] * 5) + rng.normal(0, 0.02, (5, 64, 64)), 0, 1)
    still, flat = np.stack([texture[:, :64]] * 5), np.ones((5, 64, 64))
    far = flow(np.stack([moving, shimmer, still, flat]).astype(np.float32))
    assert abs(far[0] - 2) < 0.1
    assert far[1:].max() < 0.02


def test_features_are_taken_at_the_last_frame_and_before() -> None:
    assert looked_at(16) == [4, 8, 11, 15]
    assert looked_at(3) == [0, 1, 2] or looked_at(3)[-1] == 2


def test_rollouts_begin_with_what_was_given_and_go_on_from_it(tiny_generator: Generator, tmp_path: Path) -> None:
    pipeline = RetrievalPipeline(tiny_generator, scheduler="DDIMScheduler")
    pipeline.set_progress_bar_config(disable=True)
    tasks = [
        ClipTask(prompt=f"a {color} disc", first=moving_disc(1, 64, color)[0], seed=number)
        for number, color in enumerate(("red", "green", "blue"))
    ]
    how = {"num_frames": 3, "num_inference_steps": 3, "guidance": Guidance(mode="none")}
    drawn = {name: roll_out(pipeline, tasks, VARIANTS[name], **how) for name in ("none", "last", "still", "sdedit")}
    for name, clips in drawn.items():
        assert clips.shape == (3, 3, 64, 64, 3)
        assert (clips[:, 0] == np.stack([task.first for task in tasks])).all(), name
    assert (drawn["still"] == drawn["still"][:, :1]).all()
    assert (drawn["none"][:, 1] != drawn["last"][:, 1]).any()
    alone = roll_out(pipeline, tasks[1:2], VARIANTS["last"], **how)
    assert np.abs(alone[0].astype(int) - drawn["last"][1]).max() <= 1, "a clip depends on nothing else in the batch"
