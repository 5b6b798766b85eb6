"""Pictures in the course of a training run."""

from __future__ import annotations

from pathlib import Path

from rag_diffusion.config import Config
from rag_diffusion.models.generator import Generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.previews import pictures
from tests.unit.tracked import RecordingTracker


def test_pictures_show_neighbors_above_the_drawing(
    scoring_config: Config,
    tmp_path: Path,
    tiny_generator: Generator,
    tiny_corpus: Corpus,
    tiny_neighbors: dict[str, dict[str, list[str]]],
) -> None:
    tracker = RecordingTracker()
    context = StageContext(config=scoring_config, root=tmp_path, tracker=tracker)
    pictures(context, tiny_corpus, tiny_neighbors["validation"])(tiny_generator, 30)
    assert tracker.images == [("validation", 30, (8 * 64, 4 * 64))]
    pictures(context, tiny_corpus, {})(tiny_generator, 60)
    assert len(tracker.images) == 1
