"""Stage `sample` on the small corpus: drawings, what is said of them, and sheets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.metrics.variants import read_samples
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.sampling.cascade_folder import save_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.sampling.samples import file_name
from rag_diffusion.stages import sample
from rag_diffusion.training.card import write_card
from rag_diffusion.types import Prompt
from tests.unit.sampling.cascades import small_stage
from tests.unit.tracked import RecordingTracker


def test_a_cascade_is_drawn_large_and_keeps_what_its_first_stage_drew(
    project: Path, scoring_config: Config, tiny_generator: Generator, tiny_prompts: list[Prompt], tmp_path: Path
) -> None:
    def run(name: str, stages: list[CascadeStage]) -> Path:
        root = Path(shutil.copytree(project, tmp_path / name))
        (root / layout.MODEL).mkdir()
        save_generator(tiny_generator, root / layout.MODEL)
        save_stages(stages, root / layout.MODEL)
        write_card(root / layout.MODEL, {"train_entities": []})
        upsampling = scoring_config.sample.upsampling.model_copy(update={"num_inference_steps": 2, "noise_level": 20})
        few = {"num_inference_steps": 2, "variants": ["retrieved"], "upsampling": upsampling}
        config = scoring_config.model_copy(update={"sample": scoring_config.sample.model_copy(update=few)})
        sample.run(StageContext(config=config, root=root, tracker=RecordingTracker()))
        return root

    stage = CascadeStage(model=small_stage(tiny_generator.text_encoder), settings=StageSettings())
    both, first = run("both", [stage]), run("first", [])
    table = both / layout.SAMPLES / "samples.parquet"
    (large, _), (small, _) = (read_samples(table, tiny_prompts, finished=kind)["retrieved"] for kind in (True, False))
    assert (large.shape[1], small.shape[1]) == (128, 64)
    alone, _ = read_samples(first / layout.SAMPLES / "samples.parquet", tiny_prompts)["retrieved"]
    assert np.array_equal(small, alone), "the first stage draws as it does alone"
    name = f"images/retrieved/{file_name(0, tiny_prompts[0].text)}"
    origin = read_provenance(both / layout.SAMPLES / name)
    (told,) = origin.settings["stages"]
    assert (told["image_size"], told["num_inference_steps"], told["noise_level"]) == (128, 2, 20)
    pipeline = RetrievalPipeline.from_pretrained(both / layout.MODEL)
    assert told["model_hash"] == pipeline.stages[0].model.fingerprint
    sheets = [Image.open(root / "reports/sheets/comparison.png") for root in (both, first)]
    assert sheets[0].height > sheets[1].height, "larger pictures on the sheet"


def test_every_variant_is_drawn_written_and_put_on_a_sheet(
    project: Path, scoring_config: Config, tiny_generator: Generator, tiny_prompts: list[Prompt]
) -> None:
    (project / layout.MODEL).mkdir()
    save_generator(tiny_generator, project / layout.MODEL)
    write_card(project / layout.MODEL, {"train_entities": []})
    few = {"num_inference_steps": 2, "variants": ["none", "retrieved"], "batch_size": len(tiny_prompts)}
    config = scoring_config.model_copy(update={"sample": scoring_config.sample.model_copy(update=few)})
    tracker = RecordingTracker()

    sample.run(StageContext(config=config, root=project, tracker=tracker))

    folder = project / layout.SAMPLES
    samples = read_samples(folder / "samples.parquet", tiny_prompts)
    assert {name: len(pixels) for name, (pixels, _) in samples.items()} == dict.fromkeys(
        ("none", "retrieved"), len(tiny_prompts)
    )
    said = json.loads((folder / "provenance.json").read_text())
    assert (said["absent"], said["without"]) == ({}, {})
    assert len(said["images"]) == 2 * len(tiny_prompts)
    origin = read_provenance(folder / "images/retrieved" / file_name(0, tiny_prompts[0].text))
    assert (origin.prompt, len(origin.neighbors)) == (tiny_prompts[0].text, 3)
    metrics = tracker.metrics[-1][1]
    assert metrics["none.attention_to_neighbors"] == 0 < metrics["retrieved.attention_to_neighbors"] <= 1
    assert metrics["retrieved.images"] == len(tiny_prompts)
    assert {path.stem for path in (project / "reports/sheets").iterdir()} == {"none", "retrieved", "comparison"}
    assert [name for name, _, _ in tracker.images] == ["sheets/none", "sheets/retrieved", "sheets/comparison"]
