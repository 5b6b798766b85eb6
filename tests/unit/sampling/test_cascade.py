"""A cascade: stages one after the other, from one folder, each told in the provenance."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rag_diffusion.errors import ConfigError, LineageError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.super_resolution import SuperResolution, save_upsampler
from rag_diffusion.project import open_pipeline
from rag_diffusion.sampling import cascade, cascade_folder
from rag_diffusion.sampling.cascade import Upsampling
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.sampling.tiles import tiled
from rag_diffusion.store.corpus import Corpus
from tests.unit.models.upsamplers import save_stage_two
from tests.unit.sampling.cascades import small_stage
from tests.unit.sampling.prompts import PROMPTS, quiet

SETTINGS = StageSettings(num_inference_steps=2, noise_level=40)


@pytest.fixture
def stage(tiny_generator: Generator) -> CascadeStage:
    return CascadeStage(model=small_stage(tiny_generator.text_encoder), settings=SETTINGS)  # type: ignore[arg-type]


@pytest.fixture
def both(tiny_generator: Generator, stage: CascadeStage) -> RetrievalPipeline:
    return quiet(RetrievalPipeline(tiny_generator, stages=[stage]))


def draw(pipeline: RetrievalPipeline, neighbors: Any, rows: slice = slice(None), **more: Any) -> Any:
    seeds = [5, 6, 7][rows]
    return pipeline(PROMPTS[rows], neighbors[rows], num_inference_steps=2, generator=seeded(seeds), **more)


def test_a_cascade_draws_large_and_stops_early(both: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    whole, first = draw(both, neighbors), draw(both, neighbors, stages=1)
    assert [image.size for image in whole.images] == [(128, 128)] * 3
    assert [image.size for image in first.images] == [(64, 64)] * 3
    assert "stages" not in first.provenance[0].settings
    (told,) = whole.provenance[0].settings["stages"]
    assert (told["image_size"], told["num_inference_steps"], told["noise_level"]) == (128, 2, 40)
    assert [one.pair_id for one in whole.provenance[0].neighbors] == [
        one.pair_id for one in first.provenance[0].neighbors
    ]


def test_the_further_stage_takes_the_finished_picture_of_the_first(
    both: RetrievalPipeline, stage: CascadeStage, neighbors: list[list[Neighbor]]
) -> None:
    whole, first = draw(both, neighbors), draw(both, neighbors, stages=1)
    later = Upsampling(stage=stage, settings=SETTINGS).run(as_arrays(first.images), PROMPTS, [5, 6, 7])
    assert np.array_equal(cascade.images_to_pixels(later).numpy(), as_arrays(whole.images))


def test_a_picture_of_one_seed_is_the_same_in_any_batch(
    both: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    whole = draw(both, neighbors, output_type="pt").images
    alone = draw(both, neighbors, slice(1, 2), output_type="pt").images
    small = draw(both, neighbors, output_type="pt", stage_settings=[replace(SETTINGS, batch_size=2)]).images
    torch.testing.assert_close(alone[0], whole[1], atol=2 / 255, rtol=0)
    torch.testing.assert_close(small, whole, atol=1e-4, rtol=0)


def test_settings_of_a_stage_change_its_pictures(both: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    plain = draw(both, neighbors, output_type="np").images
    for change in ({"noise_level": 0}, {"text_guidance_scale": 3.0}, {"scheduler": "DPMSolverMultistepScheduler"}):
        other = draw(both, neighbors, output_type="np", stage_settings=[replace(SETTINGS, **change)]).images  # type: ignore[arg-type]
        assert np.abs(other - plain).max() > 1e-3, change


def test_the_callback_is_told_the_stage_and_may_change_what_goes_on(
    both: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def tell(pipe: RetrievalPipeline, number: int, timestep: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        assert values["pred_original_sample"].shape == values["latents"].shape
        seen.append((values["stage"], number, tuple(values["latents"].shape)))
        return {}

    plain = draw(both, neighbors, callback_on_step_end=tell)
    assert seen == [(1, 0, (3, 192, 8, 8)), (1, 1, (3, 192, 8, 8)), (2, 0, (3, 192, 16, 16)), (2, 1, (3, 192, 16, 16))]
    assert "changed_by_callback" not in plain.provenance[0].settings

    def darken(pipe: RetrievalPipeline, number: int, timestep: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] * 0} if values["stage"] == 2 else {}

    changed = draw(both, neighbors, callback_on_step_end=darken)
    assert changed.provenance[0].settings["changed_by_callback"] is True
    assert not np.array_equal(as_arrays(changed.images), as_arrays(plain.images))


def test_progress_is_told_by_stage(both: RetrievalPipeline, neighbors: list[list[Neighbor]], capfd: Any) -> None:
    both.set_progress_bar_config(disable=False)
    draw(both, neighbors)
    assert "stage 2, 128 px" in capfd.readouterr().err


def test_a_cascade_is_one_folder(both: RetrievalPipeline, neighbors: list[list[Neighbor]], tmp_path: Path) -> None:
    both.save_pretrained(tmp_path)
    again = quiet(RetrievalPipeline.from_pretrained(tmp_path))
    (read,) = again.stages
    assert read.settings == SETTINGS
    assert (read.model.low_size, read.model.image_size) == (64, 128)
    drawn = draw(again, neighbors, slice(0, 1))
    (told,) = drawn.provenance[0].settings["stages"]
    assert told["model_hash"] == read.model.fingerprint
    assert told["model_hash"] != drawn.provenance[0].model_hash != ""
    assert set(again.components) >= {"unet", "unet_2"}
    assert again.model_cpu_offload_seq.endswith("->unet_2")


def test_a_picture_is_drawn_again_from_its_provenance(
    both: RetrievalPipeline, tiny_generator: Generator, neighbors: list[list[Neighbor]], tmp_path: Path
) -> None:
    both.save_pretrained(tmp_path)
    pipeline = quiet(RetrievalPipeline.from_pretrained(tmp_path))
    drawn = draw(pipeline, neighbors, slice(0, 1), keep_pictures=True)
    origin = Provenance.from_dict(json.loads(drawn.provenance[0].as_json()))
    again = pipeline.redraw(origin)
    assert np.array_equal(as_arrays(again.images), as_arrays(drawn.images))
    assert again.provenance == drawn.provenance
    pipeline.stages[0].model.fingerprint = "0" * 64
    with pytest.raises(LineageError, match="expected stage 2 to be model"):
        pipeline.redraw(origin)
    pipeline.stages = ()
    with pytest.raises(LineageError, match="expected the 2 stages that drew the picture, and this pipeline has 1"):
        pipeline.redraw(origin)


def test_stages_that_do_not_chain_are_told(tiny_generator: Generator, stage: CascadeStage) -> None:
    encoder = tiny_generator.text_encoder
    other = CascadeStage(model=small_stage(encoder, 32, 64), settings=SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="expected stage 2 to take images of 64 px, .* got one for 32 px"):
        RetrievalPipeline(tiny_generator, stages=[other])
    with pytest.raises(ModelError, match="expected stage 3 to take images of 128 px"):
        RetrievalPipeline(tiny_generator, stages=[stage, stage])
    stage.model.unet.register_to_config(encoder_hid_dim=7)
    with pytest.raises(ModelError, match="expected stage 2 with a text encoder of width 7"):
        RetrievalPipeline(tiny_generator, stages=[stage])


def test_what_does_not_fit_a_stage_is_told(
    both: RetrievalPipeline, stage: CascadeStage, neighbors: list[list[Neighbor]]
) -> None:
    with pytest.raises(ValueError, match="noise_level: expected 0 to 200, .*, got 201"):
        draw(both, neighbors, stage_settings=[replace(SETTINGS, noise_level=201)])
    with pytest.raises(ValueError, match="stages: expected 1 to 2, as many as this pipeline has, got 3"):
        draw(both, neighbors, stages=3)
    with pytest.raises(ValueError, match="expected settings for 1 super-resolution stages, got 0"):
        draw(both, neighbors, stage_settings=[])
    with pytest.raises(ValueError, match="got latent; draw with stages=1"):
        draw(both, neighbors, output_type="latent")
    with pytest.raises(ValueError, match="expected images of 64 x 64 px, got 32 x 32"):
        Upsampling(stage=stage, settings=SETTINGS).run(np.zeros((1, 32, 32, 3), np.uint8), ["a"], [0])
    with pytest.raises(ConfigError, match="use a divisor of 1000"):
        draw(both, neighbors, stage_settings=[replace(SETTINGS, num_inference_steps=300)])
    for wrong in ({"num_inference_steps": 0}, {"batch_size": 0}, {"text_guidance_scale": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(SETTINGS, **wrong)  # type: ignore[arg-type]


def test_memory_that_does_not_suffice_says_what_to_lower(
    both: RetrievalPipeline, neighbors: list[list[Neighbor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(both.stages[0].model.unet, "forward", full)
    with pytest.raises(ModelError, match=r"drawing 3 images at once \(stage 2, 128 px\): lower batch_size"):
        draw(both, neighbors)


@pytest.mark.parametrize("content", ["{", '{"stages": [{}]}', '{"stages": [{"folder": "x", "speed": 3}]}'])
def test_a_damaged_cascade_is_told(both: RetrievalPipeline, tmp_path: Path, content: str) -> None:
    both.save_pretrained(tmp_path)
    (tmp_path / cascade_folder.CASCADE).write_text(content)
    with pytest.raises(ModelError, match="expected the stages of a cascade"):
        RetrievalPipeline.from_pretrained(tmp_path)


def test_a_project_adds_the_stage_that_fits(
    tiny_generator: Generator, stage: CascadeStage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sizes(cascade: str) -> list[int]:
        return [found.model.image_size for found in cascade_folder.project_stages(tmp_path, cascade, tiny_generator)]

    caplog.set_level("INFO")
    assert sizes("auto") == [], "there is none"
    for name, model in (("data/upsampler", stage.model), ("other", small_stage(tiny_generator.text_encoder, 32, 64))):  # type: ignore[arg-type]
        (tmp_path / name).mkdir(parents=True)
        save_upsampler(model, tmp_path / name)
    assert (sizes("auto"), sizes("none"), sizes("data/upsampler")) == ([128], [], [128])
    with pytest.raises(ModelError, match="expected stage 2 to take images of 64 px, .* got one for 32 px"):
        sizes("other")
    shutil.rmtree(tmp_path / "data/upsampler")
    (tmp_path / "other").rename(tmp_path / "data/upsampler")
    assert sizes("auto") == []
    assert "data/upsampler is left out, pictures stay at 64 px" in caplog.text


def test_a_project_draws_as_its_parameters_say(
    both: RetrievalPipeline, tiny_generator: Generator, tiny_corpus: Corpus, tmp_path: Path, project_root: Path
) -> None:
    text = (project_root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("noise_level: 0 ", "noise_level: 7 "))
    for name in ("data/base", "data/upsampler"):
        (tmp_path / name).mkdir(parents=True)
    save_generator(tiny_generator, tmp_path / "data/base")
    save_upsampler(both.stages[0].model, tmp_path / "data/upsampler")
    (of_base,) = open_pipeline(tmp_path).stages
    assert (of_base.model.image_size, of_base.settings.noise_level) == (128, 7)
    assert (open_pipeline(tmp_path).thresholding, open_pipeline(tmp_path).palettes) == ("palette", None)
    shutil.copytree(tiny_corpus.path, tmp_path / "data/corpus")
    palettes = open_pipeline(tmp_path).palettes
    assert palettes is not None
    assert palettes.choose("a red square, noto style")[1] is not None
    assert len(open_pipeline(tmp_path, str(tmp_path / "data/base")).stages) == 1
    both.save_pretrained(tmp_path / "data/model")
    shutil.rmtree(tmp_path / "data/upsampler")
    (of_model,) = open_pipeline(tmp_path).stages
    assert of_model.settings == of_base.settings != SETTINGS
    assert open_pipeline(tmp_path, str(tmp_path / "data/base")).stages == (), "there is none any more"


def test_a_stage_that_was_trained_with_neighbors_looks_at_them_and_no_other_does(
    both: RetrievalPipeline, stage: CascadeStage, neighbors: list[list[Neighbor]], tmp_path: Path
) -> None:
    first = as_arrays(draw(both, neighbors, stages=1).images)
    stage.model.unet.randomize_output(0.5)

    def drawn(seen: list[list[Neighbor]], settings: StageSettings = SETTINGS) -> np.ndarray:
        work = Upsampling(stage=stage, settings=settings)
        return cascade.images_to_pixels(work.run(first, PROMPTS, [5, 6, 7], neighbors=seen)).numpy()

    without = drawn([[], [], []])
    assert np.array_equal(drawn(neighbors), without)
    stage.model.num_neighbors = 2
    looked = drawn(neighbors)
    assert not np.array_equal(looked, without)
    assert np.array_equal(drawn([chosen[:2] for chosen in neighbors]), looked), "two were all that it sees"
    assert np.array_equal(drawn([[], [], []]), without)
    assert np.array_equal(as_arrays(draw(both, neighbors).images), looked), "those of the first stage"
    both.save_pretrained(tmp_path)
    assert cascade_folder.load_stages(tmp_path)[0].model.num_neighbors == 2
    with pytest.raises(ValueError, match="tile_size: expected 0 of a stage that looks at neighbors"):
        drawn(neighbors, replace(SETTINGS, tile_size=64))


def test_tiles_draw_nearly_what_the_whole_does(
    both: RetrievalPipeline, stage: CascadeStage, neighbors: list[list[Neighbor]]
) -> None:
    def pictures(tile_size: int) -> np.ndarray:
        drawn = draw(both, neighbors, stage_settings=[replace(SETTINGS, tile_size=tile_size)])
        assert drawn.provenance[0].settings["stages"][0]["tile_size"] == tile_size
        return as_arrays(drawn.images).astype(int)

    whole = pictures(0)
    assert np.array_equal(pictures(128), whole), "one tile is the whole"
    assert 0 < np.abs(pictures(64) - whole).mean() < 8
    for wrong in (8, 72, 16):
        with pytest.raises(ValueError, match=f"tile_size: expected a multiple of 16 .* 32 pixels, got {wrong}"):
            pictures(wrong)


def test_tiles_of_what_looks_nowhere_else_are_the_whole(stage: CascadeStage) -> None:
    sides: list[int] = []

    def local(bound: SuperResolution, sample: torch.Tensor) -> torch.Tensor:
        assert bound.shown is not None
        sides.append(sample.shape[-1])
        return sample**2 + bound.shown[:, :192]

    levels, size = torch.zeros(2, dtype=torch.long), stage.model.low_size
    bound = stage.model.beside(torch.rand(2, 3, size, size), levels, torch.zeros(2, 3, size, size))
    sample = torch.randn(2, 192, 16, 16)
    torch.testing.assert_close(tiled(bound, sample, 48, local), local(bound, sample))
    assert set(sides) == {6, 16}


def test_deepfloyd_stage_two_behind_the_own_stage_and_behind_stage_one(
    tiny_generator: Generator, neighbors: list[list[Neighbor]], tmp_path: Path
) -> None:
    save_stage_two(tmp_path)
    settings = StageSettings(scheduler="DDPMScheduler", num_inference_steps=2, noise_level=250, text_guidance_scale=4)
    second = CascadeStage(model=cascade_folder.load_stage(tmp_path / "stage-two"), settings=settings)
    first = quiet(RetrievalPipeline.from_pretrained(tmp_path / "first" / "pipeline"))
    both = quiet(RetrievalPipeline(first.generator, stages=[second]))
    assert both(PROMPTS[0], [], num_inference_steps=2).images[0].size == (32, 32)
    behind = CascadeStage(model=cascade_folder.load_stage(tmp_path / "stage-two", low_size=64), settings=settings)
    mixed = quiet(RetrievalPipeline(tiny_generator, stages=[behind]))
    drawn = draw(mixed, neighbors, slice(0, 1))
    assert drawn.images[0].size == (32, 32)
    mixed.save_pretrained(tmp_path / "mixed")
    again = quiet(RetrievalPipeline.from_pretrained(tmp_path / "mixed"))
    assert (again.stages[0].model.low_size, again.stages[0].settings) == (64, settings)
    redrawn = draw(again, neighbors, slice(0, 1))
    assert np.abs(as_arrays(redrawn.images).astype(int) - as_arrays(drawn.images)).mean() < 3, "weights in float16"
