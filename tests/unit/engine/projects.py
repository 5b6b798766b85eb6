"""A project with the small corpus, and an encoder as it is before training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.align import RECORD_FILE, training_record
from rag_diffusion.stages import embed
from rag_diffusion.store.corpus import Corpus
from tests.unit.tracked import RecordingTracker


def project_to_embed(root: Path, corpus: Corpus) -> Path:
    """Fill an empty folder."""
    shutil.copytree(corpus.path, root / layout.CORPUS)
    write_encoder(root, corpus)
    return root


def write_encoder(root: Path, corpus: Corpus | None = None) -> None:
    """One that was trained on a corpus, or on none."""
    folder = root / layout.ENCODER
    folder.mkdir(parents=True)
    save_weights(create_embedded(folder, image_size=32, embed_dim=16, seed=0), folder)
    if corpus is not None:
        (folder / RECORD_FILE).write_text(json.dumps(training_record(corpus)))


def context(root: Path, config: Config) -> StageContext:
    """Of a stage that logs nowhere."""
    return StageContext(config=config, root=root, tracker=RecordingTracker())


def run_embed(root: Path, config: Config) -> None:
    """The stage, without what it kept of an earlier run."""
    shutil.rmtree(root / layout.SCRATCH, ignore_errors=True)
    embed.run(context(root, config))
