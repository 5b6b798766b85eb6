"""Changes of a generator's weights: they fit, they share, and the first generator stays what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rag_diffusion.errors import ModelError
from rag_diffusion.models.frames import changes, save_changes, sharing, with_changes
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.trainable import train_parts
from tests.clip_files import with_finer_maps_to_come


def predicted(generator: Generator) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    batch = NeighborBatch(
        pair_ids=("a",), captions=("a disc",), images=torch.rand(1, 3, 64, 64, generator=draws),
        rows=torch.zeros(2, 1, dtype=torch.long), weights=torch.ones(2, 1),
    )  # fmt: skip
    features = generator.neighbor_features(batch, generator.text_encoder(["a disc"]))
    sample = torch.randn(2, *generator.sample_shape, generator=draws)
    with torch.no_grad():
        return generator.predict(sample, torch.tensor([900, 100]), generator.text_encoder(["a", "b"]), features)


@pytest.fixture
def generator(tiny_generator: Generator) -> Generator:
    return with_finer_maps_to_come(tiny_generator)


@pytest.fixture
def folder(generator: Generator, tmp_path: Path) -> Path:
    """Changes of the finer maps and of one weight of the base."""
    torch.manual_seed(5)
    unet = sharing(generator.unet, neighbor_fine_skips=(0,), neighbor_fine_dim=8)
    for attention in unet.neighbor_attention.values():
        for transfer in attention.fine.values():
            torch.nn.init.normal_(transfer.to_out.weight, std=0.1)
    unet.conv_out.bias = torch.nn.Parameter(unet.conv_out.bias.detach() + 0.25)
    save_changes(tmp_path, unet, changes(unet, generator.unet))
    return tmp_path


def test_an_extended_network_draws_the_same_at_first(generator: Generator) -> None:
    before = predicted(generator)
    first = generator.unet
    generator.unet = sharing(first, neighbor_fine_skips=(0,), neighbor_fine_dim=8)
    assert torch.equal(predicted(generator), before)
    assert not first.config.neighbor_fine_skips
    assert generator.unet.conv_in.weight is first.conv_in.weight


def test_the_changed_generator_shares_what_is_not_changed_and_the_first_stays(
    generator: Generator, folder: Path
) -> None:
    before, state = predicted(generator), {n: v.clone() for n, v in generator.unet.state_dict().items()}
    changed = with_changes(generator, folder)
    assert not torch.allclose(predicted(changed), before, atol=1e-3)
    assert torch.equal(predicted(generator), before)
    assert all(torch.equal(value, state[name]) for name, value in generator.unet.state_dict().items())
    own = dict(changed.unet.named_parameters())
    other = [name for name, value in generator.unet.named_parameters() if own[name] is not value]
    assert other == ["conv_out.bias"]
    assert torch.allclose(changed.unet.conv_out.bias, generator.unet.conv_out.bias + 0.25, atol=1e-3)
    assert changed.text_encoder is generator.text_encoder
    assert changed.fingerprint != generator.fingerprint


def test_only_what_differs_is_a_change(generator: Generator) -> None:
    unet = sharing(generator.unet)
    assert changes(unet, generator.unet) == {}
    unet.conv_in.bias = torch.nn.Parameter(unet.conv_in.bias + 1)
    assert list(changes(unet, generator.unet)) == ["conv_in.bias"]


@pytest.mark.parametrize("damage", ["missing", "shape", "json"])
def test_what_does_not_fit_is_told(generator: Generator, folder: Path, damage: str) -> None:
    if damage == "missing":
        (folder / "changes.safetensors").unlink()
    elif damage == "json":
        (folder / "changes.json").write_text("{")
    else:
        spec = json.loads((folder / "changes.json").read_text()) | {"neighbor_fine_dim": 4}
        (folder / "changes.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match="expected changes that fit the generator"):
        with_changes(generator, folder)


def test_other_finer_maps_than_a_network_has_are_refused(generator: Generator) -> None:
    unet = sharing(generator.unet, neighbor_fine_skips=(0,), neighbor_fine_dim=8)
    with pytest.raises(ModelError, match="neighbor_fine_skips: expected those of the network"):
        sharing(unet, neighbor_fine_skips=(), neighbor_fine_dim=8)


def test_the_decoder_is_trained_and_the_encoder_is_not(generator: Generator) -> None:
    trained = set(train_parts(generator.unet, "decoder"))
    assert {"conv_out.weight", "up_blocks.1.resnets.0.conv1.weight"} <= trained
    assert any(name.startswith("neighbor_attention.") for name in trained)
    assert not any(name.startswith(("down_blocks.", "mid_block.", "conv_in.", "time_embedding.")) for name in trained)
