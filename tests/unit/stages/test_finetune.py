"""Fine-tuning of published pipelines: every part that can be trained, saved and read again, and a card that owns up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.super_resolution import save_upsampler
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.neighbor_table import write_neighbors
from rag_diffusion.sampling.cascade_folder import load_stages
from rag_diffusion.stages import finetune
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.card import read_card, write_card
from rag_diffusion.training.data import Batches
from rag_diffusion.training.step import TrainingStep, draw_noised
from rag_diffusion.training.text_cache import TextCache
from rag_diffusion.types import Hits
from tests.tiny import tiny_pairs
from tests.unit.models.pipelines import save
from tests.unit.sampling.cascades import small_stage

SIDE = 16  # pixels


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a small corpus, its neighbors and small published pipelines."""
    root = tmp_path_factory.mktemp("published")
    pairs = tiny_pairs(SIDE)
    write_corpus(root / layout.CORPUS, pairs, image_size=SIDE, facts={"rejected": [], "kind": "folder"})
    corpus = Corpus.open(root / layout.CORPUS)
    same: dict[str, list[str]] = {}
    for pair in pairs:
        same.setdefault(pair.entity, []).append(pair.pair_id)
    training = {pair.pair_id: hits([name for name in same[pair.entity] if name != pair.pair_id])
                for pair in pairs if pair.split == "train"}  # fmt: skip
    (root / layout.NEIGHBORS).mkdir()
    write_neighbors(root / layout.NEIGHBORS, corpus_hash=corpus.hash, training=training, validation={}, prompts={})
    for family in ("sd", "sdxl"):
        save(family, root / family)
    return root


def hits(names: list[str]) -> Hits:
    return Hits(pair_ids=tuple(names), scores=(1.0,) * len(names), parts={})


def tuned(config: Config, root: Path, **changes: Any) -> StageContext:
    settings = {"steps": 2, "batch_size": 4, "accumulation": 2, "checkpoint_every": 2, "validate_every": 2,
                "objective": "epsilon", "precision": "fp32", "learning_rate": 0.01, "warmup_steps": 0,
                "lora_rank": 2, "base": "sd/pipeline", "neighbor_skips": [0, 2]} | changes  # fmt: skip
    section = config.finetune.model_copy(update=settings)
    return StageContext(
        config=config.model_copy(update={"finetune": section, "device": "cpu"}), root=root, tracker=NullTracker()
    )


@pytest.fixture
def config(project_root: Path) -> Config:
    return load_config(project_root / "params.yaml")


def predictions(generator: Generator, corpus: Corpus, config: Config) -> Tensor:
    names = corpus.table["pair_id"].tolist()
    plain = config.finetune.model_copy(update={"batch_size": 4, "drop_both": 0.0, "drop_neighbors": 0.0})
    batch = Batches(corpus, {names[0]: names[1:4], names[7]: names[8:10]}, plain, 3, seed=0)[0]
    noised = draw_noised(generator, batch.images, slice(0, 4), 4, torch.Generator().manual_seed(0))
    texts = TextCache(generator.text_encoder)
    module = TrainingStep(generator, "fp32", neighbor_gradient=False).eval()
    with torch.no_grad():
        found: Tensor = module(
            noised.sample,
            noised.timesteps,
            texts(batch.captions, generator.device),
            batch.neighbors,
            texts(batch.neighbors.captions, generator.device),
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["all", "neighbors", "lora"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.filterwarnings("ignore:.*nobody knows")
def test_a_published_base_is_tuned_saved_and_read_again(
    project: Path, tmp_path: Path, config: Config, family: str, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    trained: list[Generator] = []
    saving = finetune.save_model
    monkeypatch.setattr(finetune, "save_model", lambda folder, generator, *rest: (
        trained.append(generator), saving(folder, generator, *rest)))  # fmt: skip
    finetune.run(tuned(config, root, trainable=parts, base=f"{family}/pipeline"))
    corpus = Corpus.open(root / layout.CORPUS)
    loaded = load_generator(root / layout.MODEL, "cpu")
    assert set(loaded.unet.neighbor_attention) == {"0", "2", "mid"}
    assert not any("lora" in name for name, _ in loaded.unet.named_parameters())
    found = predictions(loaded, corpus, config)
    torch.testing.assert_close(found, predictions(trained[0], corpus, config), atol=1e-5, rtol=1e-4)

    base = load_generator(root / family / "pipeline", "cpu", neighbor_skips=(0, 2))
    after = loaded.unet.state_dict()
    moved = {name for name, value in base.unet.state_dict().items()
             if not torch.equal(value, after[name]) and "neighbor_attention" not in name}  # fmt: skip
    if parts == "neighbors":
        assert not moved, "the base stays as it is"
    elif parts == "lora":
        assert moved
        assert all("attn" in name for name in moved)
    else:
        assert "conv_in.weight" in moved
    assert not torch.allclose(found, predictions(base, corpus, config), atol=1e-4)


def test_the_card_says_that_nobody_knows_what_the_base_has_seen(project: Path, tmp_path: Path, config: Config) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    with pytest.warns(UserWarning, match="sd/pipeline: nobody knows what this base was trained on"):
        finetune.run(tuned(config, root))
    card = json.loads((root / layout.MODEL / "card.json").read_text())
    assert card["base"] == {"name": "sd/pipeline", "training_data": "unknown"}
    again = tuned(config, root, base=layout.MODEL, neighbor_skips=[], steps=1)
    finetune.run(again)  # its own neighbor attention is kept, and its card is known
    assert set(load_generator(root / layout.MODEL).unet.neighbor_attention) == {"0", "2", "mid"}


@pytest.mark.filterwarnings("ignore:.*nobody knows")
def test_the_projects_super_resolution_stage_follows_unless_it_has_seen_too_much(
    project: Path, tmp_path: Path, config: Config, text_encoder: TextEncoder
) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    corpus = Corpus.open(root / layout.CORPUS)
    (root / layout.UPSAMPLER).mkdir()
    save_upsampler(small_stage(text_encoder, SIDE, 32), root / layout.UPSAMPLER)
    write_card(root / layout.UPSAMPLER, {"train_entities": [], "steps": 12, "loss_curve": []})
    finetune.run(tuned(config, root))
    (stage,) = load_stages(root / layout.MODEL)
    assert (stage.model.low_size, stage.model.image_size) == (SIDE, 32)
    assert read_card(root / layout.MODEL)["stages"] == [{"steps": 12}]

    held_out = corpus.table.loc[corpus.table["split"] == "test", "entity"].tolist()
    write_card(root / layout.UPSAMPLER, {"train_entities": held_out, "steps": 12})
    finetune.run(tuned(config, root))
    assert load_stages(root / layout.MODEL) == []
    assert read_card(root / layout.MODEL)["stages"] == []
    with pytest.raises(LineageError, match="data/upsampler: expected weights that have never seen a held-out entity"):
        finetune.run(tuned(config, root, cascade=layout.UPSAMPLER))


@pytest.mark.filterwarnings("ignore:.*nobody knows")
def test_a_base_for_another_size_is_refused(project: Path, tmp_path: Path, config: Config) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    shutil.rmtree(root / layout.CORPUS)
    write_corpus(root / layout.CORPUS, tiny_pairs(32), image_size=32, facts={"rejected": [], "kind": "folder"})
    corpus = Corpus.open(root / layout.CORPUS)
    write_neighbors(root / layout.NEIGHBORS, corpus_hash=corpus.hash, training={}, validation={}, prompts={})
    with pytest.raises(ModelError, match="expected a base for 32 px images, got one for 16 px"):
        finetune.run(tuned(config, root))


@pytest.mark.filterwarnings("ignore:.*nobody knows")
def test_a_training_with_other_neighbors_does_not_go_on_from_the_checkpoint_of_the_former(
    project: Path, tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rag_diffusion")
    root = Path(shutil.copytree(project, tmp_path / "project"))
    finetune.run(tuned(config, root))
    finetune.run(tuned(config, root))
    assert "resuming at step 2 of 2" in caplog.text
    caplog.clear()
    corpus = Corpus.open(root / layout.CORPUS)
    names = corpus.table["pair_id"].tolist()
    training = {names[0]: hits(names[1:3]), names[1]: hits(names[2:4])}
    write_neighbors(root / layout.NEIGHBORS, corpus_hash=corpus.hash, training=training, validation={}, prompts={})
    finetune.run(tuned(config, root))
    assert "resuming" not in caplog.text
