"""What the neighbor gain and the shift and scale curve measure."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.training.validation import (
    CURVE_BY_STEP,
    CURVE_KINDS,
    SHIFTS,
    SIZES,
    make_probe,
    neighbor_gain,
    placement_curve,
    placements,
    same_style,
)
from tests.unit.training.trainer import Trainer


def test_the_curve_is_zero_everywhere_where_neighbors_do_nothing(trainer: Trainer) -> None:
    for attention in trainer.generator.unet.neighbor_attention.values():
        torch.nn.init.zeros_(attention.to_out.weight)
    probe = make_probe(trainer.generator, trainer.corpus, trainer.neighbors["validation"], 3, 6, seed=0)
    curve = placement_curve(trainer.generator, probe)
    assert len(curve) == len(CURVE_KINDS) * (3 + len(SHIFTS) + len(SIZES))
    assert set(curve.values()) == {0.0}


def test_aligned_is_the_gain_itself_and_every_placement_is_another(trainer: Trainer) -> None:
    probe = make_probe(trainer.generator, trainer.corpus, trainer.neighbors["validation"], 3, 6, seed=0)
    curve, gain = placement_curve(trainer.generator, probe), neighbor_gain(trainer.generator, probe)
    assert curve["curve_retrieved_aligned"] == pytest.approx(-gain["gain_t950"], abs=1e-5)
    random = gain["loss_random_t950"] - gain["loss_none_t950"]
    assert curve["curve_random_aligned"] == pytest.approx(random, abs=1e-5)
    retrieved = [value for name, value in curve.items() if name.startswith("curve_retrieved")]
    assert len(set(retrieved)) == len(retrieved)
    short = placement_curve(trainer.generator, probe, ("retrieved",), CURVE_BY_STEP)
    assert short == {f"curve_retrieved_{name}": curve[f"curve_retrieved_{name}"] for name in CURVE_BY_STEP}


def test_placements_move_by_what_their_names_say() -> None:
    found = placements(40)
    for pixels in SHIFTS:
        distance = torch.from_numpy(found[f"shift{pixels}"].matrix[:, :, 2]).norm(dim=1) * 32
        torch.testing.assert_close(distance, torch.full((40,), float(pixels)), atol=1e-4, rtol=0)
    for size in SIZES:
        assert found[f"size{size:g}"].matrix[0, 0, 0] == pytest.approx(1 / size)
    image = torch.rand(1, 3, 64, 64)
    one = placements(1)
    torch.testing.assert_close(one["aligned"].apply(image), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(one["mirrored"].apply(image), image.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(one["upside_down"].apply(image), image.rot90(2, (2, 3)), atol=1e-4, rtol=0)


def test_the_probe_has_style_neighbors_where_the_network_knows_roles(trainer: Trainer) -> None:
    lists = trainer.neighbors["validation"]
    assert "styled" not in make_probe(trainer.generator, trainer.corpus, lists, 3, 4, seed=0).neighbors
    config = {name: value for name, value in trainer.generator.unet.config.items() if not name.startswith("_")}
    trainer.generator.unet = RetrievalUNet(**(config | {"neighbor_roles": True})).eval()
    probe = make_probe(trainer.generator, trainer.corpus, lists, 3, 4, seed=0)
    assert probe.neighbors["styled"].weights.shape == (4, 5)
    assert "loss_styled_t950" in neighbor_gain(trainer.generator, probe)


def test_pairs_of_the_same_style_are_of_the_train_split_and_of_other_families(trainer: Trainer) -> None:
    import numpy as np

    table = trainer.corpus.table.set_index("pair_id")
    name = next(iter(trainer.neighbors["validation"]))
    found = same_style(trainer.corpus, name, 5, np.random.default_rng(0))
    assert len(set(found)) == 5
    assert set(table.loc[found, "style"]) == {table.loc[name, "style"]}
    assert set(table.loc[found, "split"]) == {"train"}
    assert table.loc[name, "family"] not in set(table.loc[found, "family"])
