"""Stage `sample` on the small corpus: drawings, what is said of them, and sheets."""

from __future__ import annotations

import json
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.metrics.variants import read_samples
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.sampling.provenance import read_png
from rag_diffusion.sampling.samples import file_name
from rag_diffusion.stages import sample
from rag_diffusion.training.card import write_card
from rag_diffusion.types import Prompt
from tests.unit.tracked import RecordingTracker


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
    origin = read_png(folder / "images/retrieved" / file_name(0, tiny_prompts[0].text))
    assert (origin.prompt, len(origin.neighbors)) == (tiny_prompts[0].text, 3)
    metrics = tracker.metrics[-1][1]
    assert metrics["none.attention_to_neighbors"] == 0 < metrics["retrieved.attention_to_neighbors"] <= 1
    assert metrics["retrieved.images"] == len(tiny_prompts)
    assert {path.stem for path in (project / "reports/sheets").iterdir()} == {"none", "retrieved", "comparison"}
    assert [name for name, _, _ in tracker.images] == ["sheets/none", "sheets/retrieved", "sheets/comparison"]
