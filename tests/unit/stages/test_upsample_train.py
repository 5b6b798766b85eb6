"""The stage that trains a super-resolution stage: result with its card, and settings that do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError
from rag_diffusion.models.super_resolution import load_upsampler
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.pipeline.promote import promote_upsampler
from rag_diffusion.readers.images import encode_png, render_svg
from rag_diffusion.retrieval.neighbor_table import write_neighbors
from rag_diffusion.stages import upsample_train
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.types import Hits, Pair
from tests.tiny import tiny_pairs

SIDE = 16


def drawn(pair: Pair, number: int) -> Pair:
    """The pair with a drawing of its own, whose image is rendered from it."""
    place = f'cx="{4 + number % 9}" cy="{4 + number % 7}" r="{2 + number % 4}"'
    disc = f'<circle {place} fill="#{(number * 977) % 4096:03x}"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16">{disc}</svg>'.encode()
    return replace(pair, image=encode_png(render_svg(svg, SIDE, pair.pair_id)), original=svg)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("upsample")
    pairs = [drawn(pair, number) for number, pair in enumerate(tiny_pairs(SIDE))]
    write_corpus(root / layout.CORPUS, pairs, image_size=SIDE, facts={"rejected": [], "kind": "iconify"})
    return root


def context(config: Config, root: Path, num_neighbors: int = 0, **sizes: Any) -> StageContext:
    given = config.model_dump()
    given["upsample"] |= {"steps": 2, "batch_size": 4, "crop_size": 32, "validate_every": 2, "max_minutes": 0.0}
    given["upsample"]["num_neighbors"] = num_neighbors
    given["upsample"]["model"] |= {
        "low_size": SIDE, "image_size": 64, "block_out_channels": [16, 16], "layers_per_block": [0, 1],
    } | sizes  # fmt: skip
    return StageContext(config=Config.model_validate(given), root=root, tracker=NullTracker())


def test_the_result_is_a_stage_with_its_card_which_can_be_promoted(default_config: Config, project: Path) -> None:
    upsample_train.run(context(default_config, project))
    folder = promote_upsampler(project)
    assert folder == project / layout.UPSAMPLER
    stage = load_upsampler(folder)
    assert (stage.low_size, stage.image_size) == (SIDE, 64)
    card = json.loads((folder / "card.json").read_text())
    assert card["steps"] == 2
    assert card["hours"] >= 0
    assert card["train_entities"]
    assert {"bicubic", "error_s0_t999", "error_s100_t300"} <= set(card["upsampling_errors"][-1])
    (rendered,) = [
        path for path in (project / layout.SCRATCH).glob("rendered-*") if len(np.load(path / "images.npy")) > 16
    ]
    shown = np.load(rendered / "images.npy", mmap_mode="r")
    small = np.asarray(Image.fromarray(np.asarray(shown[0])).resize((SIDE, SIDE), Image.Resampling.BOX)).astype(int)
    assert shown.shape[1:] == (64, 64, 3)
    assert 255 > small.mean() > 100


def test_with_neighbors_it_is_trained_and_measured_with_those_of_the_table(
    default_config: Config, project: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    corpus = Corpus.open(root / layout.CORPUS)
    of_entity = corpus.table.groupby("entity")["pair_id"].apply(list)
    lists = {split: {row.pair_id: hits([name for name in of_entity[row.entity] if name != row.pair_id])
                     for row in corpus.table[corpus.table["split"] == split].itertuples()}
             for split in ("train", "validation")}  # fmt: skip
    (root / layout.NEIGHBORS).mkdir()
    write_neighbors(root / layout.NEIGHBORS, corpus_hash=corpus.hash, training=lists["train"],
                    validation=lists["validation"], prompts={})  # fmt: skip
    upsample_train.run(context(default_config, root, num_neighbors=2))
    assert load_upsampler(root / layout.UPSAMPLER_TRAINED).num_neighbors == 2
    errors = json.loads((root / layout.UPSAMPLER_TRAINED / "card.json").read_text())["upsampling_errors"][-1]
    assert errors["error_s0_t999"] != errors["error_s0_t999_none"]


def hits(names: list[str]) -> Hits:
    return Hits(pair_ids=tuple(names), scores=(1.0,) * len(names), parts={})


def test_a_corpus_of_another_size_is_told(default_config: Config, project: Path) -> None:
    with pytest.raises(ConfigError, match="expected the corpus' image_size 16, got 32"):
        upsample_train.run(context(default_config, project, low_size=32))
