"""The public call: determinism, invariances, the neighbor cache, outputs, callbacks, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rag_diffusion.errors import ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, NeighborBatch, neighbors_from
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus
from tests.unit.sampling.prompts import LISTS, PROMPTS, draw, quiet


@pytest.mark.parametrize("mode", ["none", "text", "neighbor", "alternate", "interleaved", "joint"])
def test_a_batch_equals_its_images_one_by_one(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], mode: str
) -> None:
    given: dict[str, Any] = {"guidance": Guidance(mode=mode), "num_inference_steps": 4, "output_type": "latent"}
    together = pipeline(PROMPTS, neighbors, generator=seeded([1, 2, 3]), **given).images
    for row in range(3):
        alone = pipeline(PROMPTS[row], neighbors[row] or [[]], generator=seeded([row + 1]), **given).images
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


def test_an_empty_neighbor_list_draws_what_no_neighbors_draw(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    guidance = Guidance(mode="text")
    mixed = draw(pipeline, PROMPTS, neighbors, generator=seeded([1, 2, 3]), guidance=guidance)
    none = draw(pipeline, PROMPTS, num_neighbors=0, generator=seeded([1, 2, 3]), guidance=guidance)
    assert np.array_equal(mixed[2], none[2])
    assert not np.array_equal(mixed[0], none[0])


def test_features_made_once_equal_features_made_in_every_step(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = draw(pipeline, PROMPTS, neighbors, generator=seeded([1, 2, 3]))
    encoded: list[int] = []
    predict, encode = Generator.predict, NeighborCache._encode

    def count(self: NeighborCache, new: list[Neighbor]) -> None:
        encoded.append(len(new))
        encode(self, new)

    def anew(self: Generator, sample: Any, timestep: Any, text: Any, features: Any, **options: Any) -> Any:
        if options.get("and_without"):  # a step of the whole batch
            features = NeighborCache(self).features(neighbors)
        return predict(self, sample, timestep, text, features, **options)

    monkeypatch.setattr(NeighborCache, "_encode", count)
    drawn = draw(pipeline, PROMPTS[:2], neighbors[:2], generator=seeded([1, 2]), guidance=Guidance(mode="neighbor"))
    assert encoded == [3]
    neighbors = neighbors[:2]
    monkeypatch.setattr(Generator, "predict", anew)
    again = draw(pipeline, PROMPTS[:2], neighbors, generator=seeded([1, 2]), guidance=Guidance(mode="neighbor"))
    assert np.array_equal(drawn, again)
    assert encoded == [3] + [3] * 5
    assert cached.shape == (3, 64, 64, 3)


def test_images_per_prompt_stand_together_and_differ(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    generator = torch.Generator().manual_seed(7)
    found = pipeline(PROMPTS[:2], neighbors[:2], num_images_per_prompt=2, num_inference_steps=2, generator=generator)
    assert [one.prompt for one in found.provenance] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert [len(one.neighbors) for one in found.provenance] == [2, 2, 1, 1]
    assert not np.array_equal(np.asarray(found.images[0]), np.asarray(found.images[1]))


def test_drawn_seeds_are_told_and_draw_the_same_again(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    found = pipeline(PROMPTS, neighbors, num_inference_steps=2)
    seeds = [one.seed for one in found.provenance]
    assert len(set(seeds)) == 3
    again = pipeline(PROMPTS, neighbors, num_inference_steps=2, generator=seeded(seeds))
    assert np.array_equal(as_arrays(found.images), as_arrays(again.images))


def test_output_types_are_the_same_picture(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    def run(kind: str) -> Any:
        return pipeline(PROMPTS[0], neighbors[0], num_inference_steps=2, generator=seeded([1]), output_type=kind).images

    pil = as_arrays(run("pil"))
    assert np.abs(run("np") * 255 - pil).max() <= 0.5001
    assert np.allclose(run("pt").permute(0, 2, 3, 1).numpy(), run("np"))
    decoded = pipeline.generator.codec.decode(run("latent"))
    assert np.allclose(((decoded.clamp(-1, 1) + 1) / 2).numpy(), run("pt").numpy(), atol=1e-5)


def test_a_callback_sees_each_step_and_may_change_it(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    seen = []

    def stop(pipe: RetrievalPipeline, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append((number, int(timestep)))
        return {"latents": torch.zeros_like(values["latents"])} if number == 2 else {}

    found = pipeline(PROMPTS[0], neighbors[0], num_inference_steps=3, callback_on_step_end=stop, output_type="latent")
    assert seen == [(0, 999), (1, 666), (2, 332)]
    assert float(found.images.abs().max()) == 0


def test_a_callback_sees_the_picture_grow_and_may_end_it(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    estimates: list[torch.Tensor] = []

    def look(pipe: RetrievalPipeline, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        estimates.append(values["pred_original_sample"])
        if len(estimates) == 5:
            raise InterruptedError
        return {}

    options: dict[str, Any] = {"num_inference_steps": 3, "callback_on_step_end": look, "output_type": "latent"}
    drawn = pipeline(PROMPTS[0], neighbors[0], **options)
    assert len(estimates) == 3
    assert not torch.equal(estimates[0], estimates[2])
    assert torch.allclose(estimates[2], drawn.images, atol=1e-5)  # DDIM's last step goes to the estimate itself
    assert "changed_by_callback" not in drawn.provenance[0].settings
    with pytest.raises(InterruptedError):
        pipeline(PROMPTS[0], neighbors[0], **options)
    assert len(estimates) == 5


def test_a_saved_pipeline_draws_the_same(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "one")
    loaded = quiet(RetrievalPipeline.from_pretrained(tmp_path / "one"))
    loaded.save_pretrained(tmp_path / "two")
    again = quiet(RetrievalPipeline.from_pretrained(tmp_path / "two"))
    given = (PROMPTS[0], neighbors[0])
    first = draw(loaded, *given, generator=seeded([1]))
    assert np.array_equal(first, draw(again, *given, generator=seeded([1])))
    assert np.abs(first.astype(int) - draw(pipeline, *given, generator=seeded([1]))).max() < 16  # float16 on disk
    fingerprint = loaded(*given, num_inference_steps=1).provenance[0].model_hash
    assert fingerprint == again.generator.fingerprint != ""


def test_a_scheduler_is_saved_and_read_again(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], tmp_path: Path
) -> None:
    from diffusers import EulerDiscreteScheduler

    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path)
    again = quiet(RetrievalPipeline.from_pretrained(tmp_path))
    assert type(again.scheduler) is EulerDiscreteScheduler
    settings = again(PROMPTS[0], neighbors[0], num_inference_steps=1).provenance[0].settings
    assert settings["scheduler"] == "EulerDiscreteScheduler"
    with pytest.raises(
        ModelError, match=r"expected no options but .* for a generator of this project, got \['sheduler'\]"
    ):
        RetrievalPipeline.from_pretrained(tmp_path, sheduler="x")


def test_a_network_put_in_its_place_is_used(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    before = draw(pipeline, PROMPTS[0], neighbors[0], generator=seeded([1]))
    other = copy.deepcopy(pipeline.unet)
    torch.nn.init.normal_(other.conv_out.weight)
    pipeline.unet = other
    assert not np.array_equal(before, draw(pipeline, PROMPTS[0], neighbors[0], generator=seeded([1])))


def test_a_weight_of_zero_hides_a_neighbor(pipeline: RetrievalPipeline, tiny_corpus: Corpus) -> None:
    one, two = neighbors_from(tiny_corpus, LISTS[0])
    hidden = Neighbor(image=two.image, caption=two.caption, pair_id=two.pair_id, weight=0)
    shown = pipeline(PROMPTS[0], [one, hidden], num_inference_steps=2, generator=seeded([1]), output_type="latent")
    alone = pipeline(PROMPTS[0], [one], num_inference_steps=2, generator=seeded([1]), output_type="latent")
    torch.testing.assert_close(shown.images, alone.images, atol=1e-4, rtol=1e-4)
    assert shown.provenance[0].neighbors[1].attention == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_draws_nearly_the_same(
    tiny_generator: Generator, neighbors: list[list[Neighbor]], precision: str
) -> None:
    exact = draw(quiet(RetrievalPipeline(tiny_generator)), PROMPTS[0], neighbors[0], generator=seeded([1]))
    half = quiet(RetrievalPipeline(tiny_generator, precision=precision))
    found = draw(half, PROMPTS[0], neighbors[0], generator=seeded([1]))
    assert 0 < np.abs(found.astype(int) - exact).mean() < 8


def test_weights_that_live_elsewhere_are_brought_in(tiny_generator: Generator, neighbors: list[list[Neighbor]]) -> None:
    from accelerate import cpu_offload

    before = draw(quiet(RetrievalPipeline(tiny_generator)), PROMPTS[0], neighbors[0], generator=seeded([1]))
    cpu_offload(tiny_generator.unet, execution_device="cpu")
    assert next(tiny_generator.unet.parameters()).device.type == "meta"
    after = draw(quiet(RetrievalPipeline(tiny_generator)), PROMPTS[0], neighbors[0], generator=seeded([1]))
    assert np.array_equal(before, after)


@pytest.mark.slow
def test_a_step_compiles_without_a_graph_break(tiny_generator: Generator, neighbors: list[list[Neighbor]]) -> None:
    features = NeighborCache(tiny_generator).features(neighbors)
    unet = tiny_generator.unet
    text = tiny_generator.text_encoder(PROMPTS)
    compiled = torch.compile(unet, backend="aot_eager", fullgraph=True)
    sample = torch.randn(3, *tiny_generator.sample_shape)
    given = {"encoder_attention_mask": text.mask, "neighbors": features, "and_without": True}
    with torch.no_grad():
        expected = unet(sample, torch.tensor(500), text.states, **given).sample
        found = compiled(sample, torch.tensor(500), text.states, **given).sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_compiled_network_draws_the_same_with_attention_recorded(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    def run() -> Any:
        return pipeline(PROMPTS, neighbors, num_inference_steps=2, generator=seeded([1, 2, 3]), output_type="latent")

    before = run()
    pipeline.unet = torch.compile(pipeline.unet, backend="aot_eager", fullgraph=True)
    after = run()
    torch.testing.assert_close(after.images, before.images, atol=1e-4, rtol=1e-4)
    assert after.provenance[0].null_attention == pytest.approx(before.provenance[0].null_attention, abs=1e-4)


def test_gather_and_the_cache_agree(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    lists = [neighbors_from(tiny_corpus, names) for names in LISTS]
    batch = NeighborBatch.gather(tiny_corpus, LISTS)
    captions = tiny_generator.text_encoder(list(batch.captions))
    with torch.no_grad():
        one, other = tiny_generator.neighbor_features(batch, captions), NeighborCache(tiny_generator).features(lists)
    assert other is not None
    for name, kv in one.items():
        torch.testing.assert_close(kv.keys, other[name].keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kv.values, other[name].values, atol=1e-5, rtol=1e-5)


def test_a_picture_to_begin_with(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    shown = neighbors[0][0].pixels(64)

    def begin(**more: Any) -> Any:
        given = {"num_inference_steps": 10, "generator": seeded([1, 2, 3]), "guidance": Guidance(mode="none")}
        return pipeline(PROMPTS, neighbors, **given, **more)

    near, far = (begin(image=shown, strength=strength) for strength in (0.1, 0.9))
    distance = [np.abs(as_arrays(one.images).astype(float) - shown).mean() for one in (near, far)]
    assert distance[0] < distance[1] / 2
    assert near.provenance[0].settings["strength"] == 0.1
    whole, plain = begin(image=shown, strength=1.0), begin()
    assert "strength" not in plain.provenance[0].settings
    assert np.abs(as_arrays(whole.images).astype(float) - as_arrays(plain.images)).max() <= 1  # no signal is left
    twice = begin(image=[shown] * 3, strength=0.1)
    assert np.array_equal(as_arrays(twice.images), as_arrays(near.images))
    with pytest.raises(ValueError, match="image: expected one picture, or one for each of 3 prompts, got 2"):
        begin(image=[shown] * 2)
    with pytest.raises(ValueError, match="image: expected a PIL image or a uint8 array"):
        begin(image=shown.astype(np.float32))
