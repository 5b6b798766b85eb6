"""The stages of clips: trained changes with their card, which can be promoted, and measures of rollouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError, DataError, LineageError
from rag_diffusion.models.frames import drawing_of, with_changes
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.own import save_own
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.pipeline.promote import promote_frames
from rag_diffusion.stages import clips_score, clips_train
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from tests.clip_files import tiny_clips, with_finer_maps_to_come


@pytest.fixture
def project(tmp_path: Path, tiny_corpus: Corpus, tiny_generator: Generator) -> Path:
    shutil.copytree(tiny_corpus.path, tmp_path / layout.CORPUS)
    base = tmp_path / layout.BASE
    base.mkdir(parents=True)
    save_own(with_finer_maps_to_come(tiny_generator), base)
    card = {"train_entities": [], "train_families": []}
    (base / "card.json").write_text(json.dumps(card))
    tiny_clips(tmp_path / layout.CLIPS)
    return tmp_path


def context(config: Config, root: Path, **score: Any) -> StageContext:
    given = config.model_dump()
    given["clips"]["train"] |= {
        "steps": 2, "batch_size": 2, "validate_every": 2, "max_minutes": 0.0, "warmup_steps": 1,
        "neighbor_fine_skips": [0], "neighbor_fine_dim": 8, "precision": "fp32",
    }  # fmt: skip
    given["clips"]["score"] |= {
        "num_frames": 3, "num_inference_steps": 3, "variants": ["none", "last", "still", "sdedit"], "precision": "fp32",
    } | score  # fmt: skip
    given["score"]["bootstrap_draws"] = 50
    return StageContext(config=Config.model_validate(given), root=root, tracker=NullTracker())


def test_trained_changes_have_a_card_are_promoted_and_measured(default_config: Config, project: Path) -> None:
    clips_train.run(context(default_config, project))
    with pytest.raises(DataError, match="expected the scores of the result, found none"):
        promote_frames(project)
    clips_score.run(context(default_config, project))
    folder = promote_frames(project)
    card = json.loads((folder / "card.json").read_text())
    assert card["train_entities"] == ["orange-disc", "red-disc", "teal-disc"]
    assert (card["steps"], card["images_seen"], card["train_licences"]) == (2, 4, {"MIT": 3})
    assert any("loss_earlier_t900" in row for row in card["validation"])
    found = load_file(folder / "changes.safetensors")
    assert card["changed_parameters"] == sum(value.numel() for value in found.values())
    assert not any(name.startswith("down_blocks.") for name in found)
    base = load_generator(project / layout.BASE)
    changed = with_changes(base, folder)
    assert tuple(changed.unet.config.neighbor_fine_skips) == (0,)

    assert drawing_of(folder)["num_inference_steps"] == 3
    assert drawing_of(folder)["guidance"]["mode"] == default_config.clips.score.guidance
    report = json.loads((project / layout.FRAMES_SCORES / "clips.json").read_text())
    assert list(report["variants"]) == ["real", "none", "last", "still", "sdedit"]
    assert report["variants"]["still"]["motion"]["mean"] == 0
    assert len(report["clips"]) == 3
    assert card["scores"] == report
    with Image.open(project / layout.FRAMES_SCORES / "clips.webp") as sheet:
        assert (sheet.n_frames, sheet.size) == (3, (5 * 64, 3 * 64))


def test_scores_of_other_weights_are_refused(default_config: Config, project: Path) -> None:
    clips_train.run(context(default_config, project))
    scores = project / layout.FRAMES_SCORES
    scores.mkdir(parents=True)
    (scores / "clips.json").write_text(json.dumps({"changes_hash": "other"}))
    with pytest.raises(LineageError, match=r"weights in pipelines/clips/result, got those of others; .* clips_score"):
        promote_frames(project)
    assert not (project / layout.FRAMES).exists()


def test_a_base_that_has_seen_a_held_out_entity_is_refused(default_config: Config, project: Path) -> None:
    corpus = Corpus.open(project / layout.CORPUS)
    held_out = str(corpus.column("entity")[np.flatnonzero(corpus.column("split") == "test")[0]])
    card = {"train_entities": [held_out], "train_families": []}
    (project / layout.BASE / "card.json").write_text(json.dumps(card))
    with pytest.raises(LineageError, match="never seen a held-out entity"):
        clips_train.run(context(default_config, project))
    assert not (project / layout.FRAMES_TRAINED).exists()


def test_settings_that_do_not_fit_are_told(default_config: Config, project: Path) -> None:
    with pytest.raises(ConfigError, match=r"clips.score.variants: expected some of none, last"):
        clips_score.run(context(default_config, project, variants=["all"]))
    with pytest.raises(DataError, match="expected a finished result"):
        promote_frames(project)
    clips_train.run(context(default_config, project))
    with pytest.raises(DataError, match="lower num_frames or stride"):
        clips_score.run(context(default_config, project, num_frames=40))
