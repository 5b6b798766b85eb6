"""Objective, batches, checkpoints and the loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rag_diffusion.config import Config, FinetuneConfig, TrainConfig
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator, save_generator
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.card import make_card, read_card, refuse_seen, write_card
from rag_diffusion.training.data import Batches
from rag_diffusion.training.loop import TrainResult, _rate, train
from rag_diffusion.training.objective import stratified_timesteps
from rag_diffusion.training.stage import write_losses
from rag_diffusion.training.validation import make_probe, neighbor_gain
from tests.unit.training.trainer import Trainer

Neighbors = dict[str, dict[str, list[str]]]


def run(generator: Generator, corpus: Corpus, neighbors: Neighbors, config: TrainConfig, scratch: Path) -> TrainResult:
    torch.manual_seed(3)
    batches = Batches(corpus, neighbors["train"], config, 3, seed=0)
    return train(generator, batches, config, seed=0, scratch=scratch, tracker=NullTracker())


def test_timesteps_stand_one_in_each_stratum() -> None:
    steps = stratified_timesteps(10, 1000, torch.Generator().manual_seed(0))
    assert sorted((steps // 100).tolist()) == list(range(10))


def test_batches_depend_on_the_step_alone(tiny_corpus: Corpus, tiny_neighbors: Neighbors, config: TrainConfig) -> None:
    one, two = (Batches(tiny_corpus, tiny_neighbors["train"], config, 3, seed=0) for _ in range(2))
    _ = one[0], one[1]
    assert one[5].captions == two[5].captions
    assert torch.equal(one[5].images, two[5].images)
    assert one[5].captions != one[6].captions


def test_batches_hold_train_pairs_and_never_show_a_target_to_itself(
    tiny_corpus: Corpus, tiny_neighbors: Neighbors, config: TrainConfig
) -> None:
    plain = config.model_copy(update={"drop_text": 0.0, "drop_both": 0.0, "drop_neighbors": 0.0})
    batches = Batches(tiny_corpus, tiny_neighbors["train"], plain, 3, seed=0)
    table = tiny_corpus.table.set_index("caption")
    for step in range(20):
        batch = batches[step]
        assert set(table.loc[list(batch.captions), "split"]) == {"train"}
        for number, caption in enumerate(batch.captions):
            shown = batch.neighbors.rows[number][batch.neighbors.mask[number]].tolist()
            assert 1 <= len(shown) <= 3
            assert table.loc[caption, "pair_id"] not in {batch.neighbors.pair_ids[row] for row in shown}


def test_all_four_cases_of_conditions_occur_at_their_rates(
    tiny_corpus: Corpus, tiny_neighbors: Neighbors, config: TrainConfig
) -> None:
    rates = config.model_copy(update={"drop_text": 0.2, "drop_both": 0.1, "drop_neighbors": 0.3, "batch_size": 100})
    batches = Batches(tiny_corpus, tiny_neighbors["train"], rates, 3, seed=0)
    cases = [
        (not text, not bool(shown.any()))
        for step in range(20)
        for text, shown in zip(batches[step].captions, batches[step].neighbors.mask, strict=True)
    ]
    found = {case: cases.count(case) / len(cases) for case in set(cases)}
    assert found[(True, True)] == pytest.approx(0.1, abs=0.03)
    assert found[(True, False)] == pytest.approx(0.2, abs=0.03)
    assert found[(False, True)] == pytest.approx(0.3, abs=0.03)


@pytest.mark.slow
def test_training_lowers_the_loss_on_held_out_pairs(
    tiny_generator: Generator,
    tiny_corpus: Corpus,
    tiny_neighbors: Neighbors,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    probe = make_probe(tiny_generator, tiny_corpus, tiny_neighbors["validation"], 3, 16, seed=0)
    before = neighbor_gain(tiny_generator, probe)
    longer = config.model_copy(update={"steps": 60, "learning_rate": 0.003})
    trained = run(tiny_generator, tiny_corpus, tiny_neighbors, longer, tmp_path / "run").generator
    after = neighbor_gain(trained, probe)
    for name, share in (("loss_retrieved_t600", 0.97), ("loss_retrieved_t850", 0.93), ("loss_retrieved_t950", 0.85)):
        assert after[name] < share * before[name], "the same images and noise, before and after"


def test_no_steps_leave_the_base_as_it_is(trainer: Trainer, default_config: Config, tmp_path: Path) -> None:
    before = trainer.weights()
    none = FinetuneConfig.model_validate(default_config.finetune.model_dump() | {"steps": 0})
    batches = Batches(trainer.corpus, trainer.neighbors["train"], none, 3, seed=0)
    result = train(trainer.generator, batches, none, seed=0, scratch=tmp_path / "run", tracker=NullTracker())
    assert (result.losses, result.images_seen) == ([], 0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights().items())
    write_losses(tmp_path / "loss.csv", result)
    assert (tmp_path / "loss.csv").read_text() == "step,loss\n"


def test_a_diverging_run_stops_with_the_reason(
    tiny_generator: Generator,
    tiny_corpus: Corpus,
    tiny_neighbors: Neighbors,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    with torch.no_grad():
        tiny_generator.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match="expected a finite loss"):
        run(tiny_generator, tiny_corpus, tiny_neighbors, config, tmp_path / "run")


def test_a_damaged_checkpoint_is_refused(
    tiny_generator: Generator,
    tiny_corpus: Corpus,
    tiny_neighbors: Neighbors,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    run(tiny_generator, tiny_corpus, tiny_neighbors, config, tmp_path / "run")
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ModelError, match="expected a checkpoint of this model"):
        run(tiny_generator, tiny_corpus, tiny_neighbors, config, tmp_path / "run")


def test_the_gain_probe_sees_neighbors(
    tiny_generator: Generator, tiny_corpus: Corpus, tiny_neighbors: Neighbors
) -> None:
    probe = make_probe(tiny_generator, tiny_corpus, tiny_neighbors["validation"], 3, 6, seed=0)
    gains = neighbor_gain(tiny_generator, probe)
    assert gains["loss_none_t850"] != gains["loss_random_t850"] != gains["loss_retrieved_t850"]
    assert gains["gain_t850"] == pytest.approx(gains["loss_none_t850"] - gains["loss_retrieved_t850"])


def card_of(generator: Generator, corpus: Corpus, pair_ids: Sequence[str]) -> dict:
    result = TrainResult(generator=generator, losses=[(1, 0.5)], gains=[], images_seen=8, seconds=1.0)
    return make_card(corpus, pair_ids, result, {})


def test_the_card_keeps_every_score_of_a_long_run(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    gains = [{"step": float(step)} | ({"joint": 0.5} if step == 333 else {}) for step in range(1, 1001)]
    result = TrainResult(generator=tiny_generator, losses=[(1, 0.5)], gains=gains, images_seen=8, seconds=1.0)
    kept = [row["step"] for row in make_card(tiny_corpus, [], result, {})["neighbor_gain"]]
    assert len(kept) < 30
    assert {1, 333, 1000} <= set(kept)


def test_a_base_that_has_seen_the_test_split_is_refused(
    tiny_generator: Generator, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    table = tiny_corpus.table
    clean = card_of(tiny_generator, tiny_corpus, table.loc[table["split"] == "train", "pair_id"].tolist())
    refuse_seen(clean, tiny_corpus, "data/base")
    write_card(tmp_path, card_of(tiny_generator, tiny_corpus, table["pair_id"].tolist()))
    with pytest.raises(LineageError, match="never seen a held-out entity, but 20 families"):
        refuse_seen(read_card(tmp_path), tiny_corpus, "data/base")


def test_a_saved_generator_loads_again_in_half_precision(tiny_generator: Generator, tmp_path: Path) -> None:
    save_generator(tiny_generator, tmp_path)
    loaded = load_generator(tmp_path, "cpu")
    for name, value in tiny_generator.unet.state_dict().items():
        torch.testing.assert_close(loaded.unet.state_dict()[name], value.half().float(), atol=0, rtol=0)


def test_weights_of_another_shape_are_refused(tiny_generator: Generator, tmp_path: Path) -> None:
    save_generator(tiny_generator, tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [32, 128]}))
    with pytest.raises(ModelError, match="expected weights that fit unet/config.json"):
        load_generator(tmp_path, "cpu")


def test_a_missing_generator_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rag-diffusion base promote"):
        load_generator(tmp_path, "cpu")


def test_the_rate_falls_to_zero_at_the_last_step_or_at_the_last_minute(config: TrainConfig) -> None:
    given = config.model_copy(update={"steps": 1000, "max_minutes": 10.0, "warmup_steps": 10, "learning_rate": 1.0})
    assert _rate(5, given, 0.0) == 0.5
    assert _rate(500, given, 300.0) == 1.0
    assert _rate(100, given, 480.0) == pytest.approx(0.5), "a fifth of the time is left"
    assert _rate(801, given, 60.0) == pytest.approx(0.5), "a fifth of the steps is left"
    assert _rate(100, given, 600.0) == 0.0
    assert _rate(100, given, 900.0) == 0.0
    endless = given.model_copy(update={"max_minutes": 0.0})
    assert _rate(100, endless, 1e6) == 1.0
