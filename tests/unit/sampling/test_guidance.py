"""The two formulas of guidance and the order in which steps use them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rag_diffusion.config import Config
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.sampling.control import SeenNeighbors
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep, combine
from rag_diffusion.sampling.guided import GuidedPrediction
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.store.corpus import Corpus
from tests.unit.sampling.prompts import LISTS, PROMPTS


def test_combine_is_the_formula() -> None:
    full, reduced = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 1.0)
    assert combine(full, reduced, 2.0).flatten().tolist() == [5.0, 5.0]
    assert combine(full, reduced, 1.0).flatten().tolist() == [3.0, 3.0]


def test_the_default_is_what_params_yaml_was_tuned_to(default_config: Config) -> None:
    assert Guidance() == Guidance.from_config(default_config.sample)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_alternation_keeps_the_ratio(ratio: float) -> None:
    plan = Guidance(mode="alternate", interleave_ratio=ratio).plan(20, [0, 1])
    assert sum(steps[0] is GuidanceStep.TEXT for steps in plan) == round(20 * ratio)
    assert all(steps[0] is steps[1] for steps in plan)


def test_half_and_half_alternates() -> None:
    kinds = [steps[0] for steps in Guidance(interleave_ratio=0.5).plan(4, [0])]
    assert kinds == [GuidanceStep.NEIGHBOR, GuidanceStep.TEXT, GuidanceStep.NEIGHBOR, GuidanceStep.TEXT]


def test_the_coin_belongs_to_the_image_and_not_to_the_batch() -> None:
    guidance = Guidance(mode="interleaved", interleave_ratio=0.3)
    together = guidance.plan(400, [7, 8])
    alone = guidance.plan(400, [8])
    assert [steps[1] for steps in together] == [steps[0] for steps in alone]
    share = sum(steps[0] is GuidanceStep.TEXT for steps in together) / 400
    assert abs(share - 0.3) < 0.07


def test_each_step_has_its_scale() -> None:
    guidance = Guidance(text_guidance_scale=3.0, neighbor_guidance_scale=5.0)
    assert [
        guidance.scale(step)
        for step in (GuidanceStep.PLAIN, GuidanceStep.TEXT, GuidanceStep.NEIGHBOR, GuidanceStep.JOINT)
    ] == [1.0, 3.0, 5.0, 3.0]


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


@pytest.mark.parametrize("scales", [(3.0, 6.0), (4.0, 4.0), (1.0, 1.0)])
def test_joint_guidance_gives_each_condition_its_scale(
    tiny_generator: Generator, tiny_corpus: Corpus, scales: tuple[float, float]
) -> None:
    text_scale, neighbor_scale = scales
    features = NeighborCache(tiny_generator).features([neighbors_from(tiny_corpus, names) for names in LISTS[:2]])
    text, null = tiny_generator.text_encoder(PROMPTS[:2]), tiny_generator.text_encoder(["", ""])
    sample, time = torch.randn(2, *tiny_generator.sample_shape), torch.tensor(400)
    guidance = Guidance(mode="joint", text_guidance_scale=text_scale, neighbor_guidance_scale=neighbor_scale)
    guided = GuidedPrediction(generator=tiny_generator, guidance=guidance, text=text, null=null)
    with torch.no_grad():
        found = guided(sample, time, [GuidanceStep.JOINT] * 2, SeenNeighbors(positive=features), [True, True])
        both, neighbors, nothing = (
            tiny_generator.predict(sample, time, *given) for given in ((text, features), (null, features), (null, None))
        )

    expected = nothing + neighbor_scale * (neighbors - nothing) + text_scale * (both - neighbors)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_joint_guidance_with_one_scale_needs_two_predictions(
    tiny_generator: Generator, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    predict = Generator.predict

    def count(self: Generator, sample: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        rows.append(len(sample))
        return predict(self, sample, *given, **options)

    monkeypatch.setattr(Generator, "predict", count)
    features = NeighborCache(tiny_generator).features([neighbors_from(tiny_corpus, LISTS[0])])
    text, null = tiny_generator.text_encoder(PROMPTS[:1]), tiny_generator.text_encoder([""])
    for scale in (4.0, 5.0):
        guidance = Guidance(mode="joint", text_guidance_scale=4.0, neighbor_guidance_scale=scale)
        guided = GuidedPrediction(generator=tiny_generator, guidance=guidance, text=text, null=null)
        with torch.no_grad():
            seen = SeenNeighbors(positive=features)
            guided(torch.zeros(1, *tiny_generator.sample_shape), torch.tensor(400), [GuidanceStep.JOINT], seen, [True])
    assert rows == [2, 3]
