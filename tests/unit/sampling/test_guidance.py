"""The two formulas of guidance and the order in which steps use them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rag_diffusion.config import Config
from rag_diffusion.sampling.guidance import Guidance, Step, combine


def test_combine_is_the_formula() -> None:
    full, reduced = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 1.0)
    assert combine(full, reduced, 2.0).flatten().tolist() == [5.0, 5.0]
    assert combine(full, reduced, 1.0).flatten().tolist() == [3.0, 3.0]


def test_the_default_is_what_params_yaml_was_tuned_to(default_config: Config) -> None:
    assert Guidance() == Guidance.from_config(default_config.sample)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_alternation_keeps_the_ratio(ratio: float) -> None:
    plan = Guidance(mode="alternate", interleave_ratio=ratio).plan(20, [0, 1])
    assert sum(steps[0] is Step.TEXT for steps in plan) == round(20 * ratio)
    assert all(steps[0] is steps[1] for steps in plan)


def test_half_and_half_alternates() -> None:
    kinds = [steps[0] for steps in Guidance(interleave_ratio=0.5).plan(4, [0])]
    assert kinds == [Step.NEIGHBOR, Step.TEXT, Step.NEIGHBOR, Step.TEXT]


def test_the_coin_belongs_to_the_image_and_not_to_the_batch() -> None:
    guidance = Guidance(mode="interleaved", interleave_ratio=0.3)
    together = guidance.plan(400, [7, 8])
    alone = guidance.plan(400, [8])
    assert [steps[1] for steps in together] == [steps[0] for steps in alone]
    share = sum(steps[0] is Step.TEXT for steps in together) / 400
    assert abs(share - 0.3) < 0.07


def test_each_step_has_its_scale() -> None:
    guidance = Guidance(text_guidance_scale=3.0, neighbor_guidance_scale=5.0)
    assert [guidance.scale(step) for step in (Step.PLAIN, Step.TEXT, Step.NEIGHBOR, Step.JOINT)] == [1.0, 3.0, 5.0, 3.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "alternat"}, "guidance mode: expected one of none, .* got 'alternat'"),
        ({"interleave_ratio": -3.0}, "expected a share from 0 to 1, got -3"),
        ({"parallel_share": 1.5}, "parallel_share: expected a share from 0 to 1, got 1.5"),
        ({"text_guidance_scale": float("nan")}, "expected finite numbers, got nan"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(**wrong)
