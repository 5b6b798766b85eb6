"""Weights by step, map and place, and negative neighbors, in drawings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.control import ControlledNeighbors, SeenNeighbors
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep
from rag_diffusion.sampling.guided import GuidedPrediction
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import seeded
from tests.unit.sampling.prompts import PROMPTS

GUIDANCE = Guidance(mode="alternate")


def latents(pipeline: RetrievalPipeline, neighbors: Any, **options: Any) -> torch.Tensor:
    given = {"guidance": GUIDANCE, "num_inference_steps": 4, "num_neighbors": 0} | options
    return pipeline(PROMPTS[0], neighbors, generator=seeded([1]), output_type="latent", **given).images


@pytest.mark.parametrize("mode", ["none", "text", "neighbor", "alternate", "joint"])
@pytest.mark.parametrize(
    "nothing",
    [{"weight": 0.0}, {"weight_by_step": [(0, 0)]}, {"weight_by_map": {2: 0, 4: 0, 8: 0}}],
    ids=["weight", "step", "map"],
)
def test_weight_zero_is_leaving_the_neighbor_out(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], nothing: dict[str, Any], mode: str
) -> None:
    one, two = neighbors[0]
    if "weight_by_map" in nothing:
        sides = {max(map_.shape[-2:]) for map_ in maps_of(pipeline, one).values()}
        nothing = {"weight_by_map": dict.fromkeys(sides, 0)}
    options = {"guidance": Guidance(mode=mode)}
    without = latents(pipeline, [one], **options)
    torch.testing.assert_close(
        latents(pipeline, [one, replace(two, **nothing)], **options), without, atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(latents(pipeline, [one, two], **options), without, atol=1e-2)
    if "weight_by_map" not in nothing:  # then it takes other steps of guidance
        alone = latents(pipeline, [replace(two, **nothing)], **options)
        torch.testing.assert_close(alone, latents(pipeline, [], **options), atol=1e-4, rtol=1e-4)


def maps_of(pipeline: RetrievalPipeline, neighbor: Neighbor) -> dict[str, torch.Tensor]:
    cache = NeighborCache(pipeline.generator)
    cache.features([[neighbor]])
    return next(iter(cache.maps.values()))


def test_what_is_not_controlled_is_as_it_was(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    """Bit for bit: the keys have no more channels, and no step adds anything."""
    cache = NeighborCache(pipeline.generator)
    features = cache.features(neighbors)
    assert features is not None
    controlled = ControlledNeighbors.prepare(neighbors, features, cache.shapes, (64, 64), 4)
    seen = controlled.at(2)
    assert seen.positive is features
    assert seen.negative is seen.everything is None
    assert all(kv.control is None and kv.keys.shape[3] == 4 + kv_head(pipeline) for kv in features.values())
    assert [controlled.shown(2), controlled.shown(3)] == [[True, True, False]] * 2


def kv_head(pipeline: RetrievalPipeline) -> int:
    return next(attention.head_dim for _, attention in pipeline.unet.attentions())


@torch.no_grad()
def test_a_mask_is_a_factor_of_the_softmax(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    """By hand: exponentials of the logits, times mask, curve and weight by map, over their sum."""
    one, two = neighbors[0]
    model = pipeline.generator
    lists = [
        [replace(one, mask="left", weight_by_step=[(0, 0.5)], fit_mask=False), replace(two, weight_by_map={4: 3.0})]
    ]
    cache, plain = NeighborCache(model), NeighborCache(model)
    features, bare = cache.features(lists), plain.features(neighbors[:1])
    assert features is not None
    assert bare is not None
    name = next(name for name, shape in cache.shapes.items() if shape[0] == 4)
    attention = model.unet.neighbor_attention[name]
    control = ControlledNeighbors.prepare(lists, features, cache.shapes, (64, 64), 4).at(1).positive[name]
    heard: list[torch.Tensor] = []
    sample = torch.randn(1, attention.to_query.in_features, 4, 4)
    fine = [torch.zeros(1, 0)] * 0
    attention.listener = heard.append
    attention.attend(sample, control, fine)
    attention.listener = None
    keys = bare[name].keys
    exponentials = (attention._query(sample, keys.shape[3] - attention.head_dim) @ keys.transpose(2, 3)).exp()
    factors = torch.ones(16, 33)
    factors[:, :16] = 0.5 * (torch.arange(16) % 4 < 2).float()[:, None]
    factors[:, 16:32] = 3.0
    softmax = exponentials * factors
    softmax = (softmax / softmax.sum(-1, keepdim=True)).mean(1)
    expected = torch.stack([softmax[..., :16].sum(-1), softmax[..., 16:32].sum(-1), softmax[..., 32]], dim=-1)
    torch.testing.assert_close(heard[0].flatten(1, 2), expected)


def test_a_masked_neighbor_acts_in_its_place_alone(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    one, two = neighbors[0]
    found = pipeline(
        PROMPTS[0],
        [replace(one, mask="left"), replace(two, mask="right")],
        num_inference_steps=2,
        generator=seeded([1]),
    )
    left, right = found.heat_maps[0]
    assert float(left[:, 4:].abs().max()) == float(right[:, :4].abs().max()) == 0
    assert float(left[:, :4].mean()) > 0.01
    assert float(right[:, 4:].mean()) > 0.01
    (origin,) = found.provenance
    assert sum(source.attention for source in origin.neighbors) + origin.null_attention == pytest.approx(1, abs=1e-4)


def test_a_neighbor_of_early_steps_changes_nothing_later(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    """An interval is what a schedule does to all neighbors alike."""
    early = [replace(one, weight_by_step=(0, 0.5)) for one in neighbors[0]]
    scheduled = latents(pipeline, neighbors[0], retrieval_schedule=RetrievalSchedule(counts=((0.5, 0),)))
    torch.testing.assert_close(latents(pipeline, early), scheduled, atol=1e-4, rtol=1e-4)


def test_the_guided_prediction_goes_away_from_negative_neighbors(
    tiny_generator: Generator, neighbors: list[list[Neighbor]]
) -> None:
    """The equations of `guidance`, from predictions with the one or the other alone."""
    one, two = neighbors[0]
    lists = [[one, replace(two, negative=True)]]

    def features(given: list[Neighbor]) -> Any:
        return NeighborCache(tiny_generator).features([given])

    cache = NeighborCache(tiny_generator)
    own = cache.features(lists)
    assert own is not None
    seen = ControlledNeighbors.prepare(lists, own, cache.shapes, (64, 64), 4).at(0)
    text, null = tiny_generator.text_encoder(PROMPTS[:1]), tiny_generator.text_encoder([""])
    sample, time = torch.randn(1, *tiny_generator.sample_shape), torch.tensor(400)
    guidance = Guidance(mode="joint", text_guidance_scale=3.0, neighbor_guidance_scale=5.0)
    guided = GuidedPrediction(generator=tiny_generator, guidance=guidance, text=text, null=null)
    with torch.no_grad():
        full, null_n, null_m, text_m, null_both = (
            tiny_generator.predict(sample, time, *given)
            for given in (
                (text, features([one])), (null, features([one])), (null, features([two])), (text, features([two])),
                (null, features([one, two])),
            )
        )  # fmt: skip
        expected = {
            GuidanceStep.TEXT: 3 * full - 2 * null_both,
            GuidanceStep.NEIGHBOR: 5 * full - 4 * text_m,
            GuidanceStep.JOINT: null_m + 5 * (null_n - null_m) + 3 * (full - null_n),
            GuidanceStep.PLAIN: full,
        }
        for step, result in expected.items():
            torch.testing.assert_close(guided(sample, time, [step], seen, [True]), result, atol=1e-4, rtol=1e-4)
        hidden = {name: kv.hidden() for name, kv in seen.positive.items()}
        alone = SeenNeighbors(positive=hidden, negative=seen.negative, everything=seen.negative)
        bare = tiny_generator.predict(sample, time, text, None)
        torch.testing.assert_close(
            guided(sample, time, [GuidanceStep.NEIGHBOR], alone, [False]), 3 * bare - 2 * null_m, atol=1e-4, rtol=1e-4
        )


def test_negative_neighbors_stand_beside_others_and_need_guidance(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    one, two = neighbors[0]
    by_hand = latents(pipeline, [one, replace(two, negative=True)])
    assert torch.equal(latents(pipeline, [one], negative_neighbors=two), by_hand)
    assert not torch.allclose(by_hand, latents(pipeline, [one]), atol=1e-2)
    for useless in (Guidance(mode="none"), Guidance(mode="joint", text_guidance_scale=1, neighbor_guidance_scale=1)):
        with pytest.raises(ValueError, match="expected guidance, which goes away from a negative neighbor, got mode"):
            latents(pipeline, [one], negative_neighbors=two, guidance=useless)


def test_a_controlled_drawing_is_drawn_again_from_its_file(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    one, two = neighbors[0]
    given = [
        replace(one, mask=(0, 0, 0.6, 1), weight_by_step="early", weight_by_map="style"),
        replace(two, mask="right", fit_mask=False, weight_by_map={4: 0.5}),
        replace(neighbors[1][0], negative=True),
    ]
    for keep in (True, False):
        found = pipeline(
            PROMPTS[0], given, num_inference_steps=4, generator=seeded([3]), output_type="latent", keep_pictures=keep
        )
        origin = Provenance.from_dict(json.loads(found.provenance[0].as_json()))
        assert origin == found.provenance[0]
        assert [source.negative for source in origin.neighbors] == [False, False, True]
        bare = None if keep else [one, two, neighbors[1][0]]
        again = pipeline.redraw(origin, bare)
        fresh = pipeline(PROMPTS[0], given, num_inference_steps=4, generator=seeded([3]))
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(fresh.images[0]))


def test_a_former_provenance_is_drawn_again(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    found = pipeline(PROMPTS[0], neighbors[0], num_inference_steps=2, generator=seeded([3]), keep_pictures=True)
    content = json.loads(found.provenance[0].as_json()) | {"version": 5}
    for source in content["neighbors"]:
        for name in ("weight_by_step", "weight_by_map", "mask", "fit_mask", "negative"):
            del source[name]
    again = pipeline.redraw(Provenance.from_dict(content))
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(found.images[0]))


def test_one_picture_may_stand_in_two_places(pipeline: RetrievalPipeline) -> None:
    red = Image.new("RGB", (64, 64), "red")
    two = [Neighbor(image=red, caption="red", mask=side) for side in ("left", "right")]
    found = pipeline("two red squares", two, num_inference_steps=1).provenance[0].neighbors
    assert len({source.pair_id for source in found}) == 2
    named = [replace(one, pair_id="mine/red") for one in two]
    with pytest.raises(ValueError, match="expected one mask and one set of weights for pair id 'mine/red', got two"):
        pipeline("two red squares", named, num_inference_steps=1)


def test_weights_of_retrieved_neighbors_are_not_those_by_hand(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    with pytest.raises(ValueError, match="expected neighbors from the retriever, got neighbors by hand; give each"):
        latents(pipeline, neighbors[0], weight_by_step="early")
