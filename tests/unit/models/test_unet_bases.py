"""RetrievalUNet on every family of diffusers' U-Nets: the base bit for bit, and what must coexist with neighbors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rag_diffusion.models.unet import RetrievalUNet
from tests.unit.models.bases import BASES, BOTH, MIXED, PUBLISHED, Base, features, loaded


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Base:
    return BASES[request.param]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_without_neighbors_it_is_the_base_bit_for_bit(base: Base, tmp_path: Path) -> None:
    plain = base.plain()
    unet = loaded(plain, tmp_path)
    for side in (8, 6 if base.config.get("mid_block_type", "") is not None else 8):
        given = base.inputs(side=side)
        assert torch.equal(unet(**given).sample, plain(**given).sample)


def test_a_row_without_neighbors_in_a_mixed_batch_is_the_base_bit_for_bit(base: Base, tmp_path: Path) -> None:
    plain = base.plain()
    unet = loaded(plain, tmp_path)
    given = base.inputs()
    mixed = unet(**given, neighbors=features(unet, base, MIXED)).sample
    expected = plain(**given).sample
    assert torch.equal(mixed[1], expected[1])
    assert not torch.allclose(mixed[0], expected[0], atol=1e-3)
    assert not torch.allclose(mixed[2], expected[2], atol=1e-3)


def test_with_and_without_neighbors_out_of_one_encoder_pass(base: Base, tmp_path: Path) -> None:
    unet = loaded(base.plain(), tmp_path)
    given, kv = base.inputs(), features(unet, base, BOTH)
    both = unet(**given, neighbors=kv, and_without=True).sample
    torch.testing.assert_close(both[:3], unet(**given, neighbors=kv).sample, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[3:], unet(**given).sample, atol=1e-5, rtol=1e-5)


def test_order_padding_and_batch_do_not_matter(base: Base, tmp_path: Path) -> None:
    unet = loaded(base.plain(), tmp_path)
    given, extra = base.inputs(4, seed=5), base.inputs(4, seed=5)
    added = {name: extra[name] for name in ("class_labels", "added_cond_kwargs") if name in extra}
    maps = unet.encode_neighbors(extra["sample"], extra["encoder_hidden_states"], **added)

    def predict(rows: list[list[int]], weights: list[list[float]]) -> Tensor:
        kv = unet.project_neighbors(maps, torch.tensor(rows), torch.tensor(weights))
        result: Tensor = unet(**given, neighbors=kv).sample
        return result

    expected = predict([[0, 1]] * 4, [[1.0, 1.0]] * 4)
    torch.testing.assert_close(predict([[1, 0]] * 4, [[1.0, 1.0]] * 4), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predict([[0, 3, 1]] * 4, [[1.0, 0.0, 1.0]] * 4), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(  # a weight of two is the same neighbor twice
        predict([[0, 1]] * 4, [[2.0, 1.0]] * 4), predict([[0, 0, 1]] * 4, [[1.0] * 3] * 4), atol=1e-5, rtol=1e-5
    )
    kv = unet.project_neighbors(maps, torch.tensor([[0, 1]]), torch.ones(1, 2))
    for row in range(4):
        alone = {name: _row(value, row) for name, value in given.items()}
        torch.testing.assert_close(unet(**alone, neighbors=kv).sample, expected[row : row + 1], atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_it_is_the_same(base: Base, tmp_path: Path) -> None:
    unet = loaded(base.plain(), tmp_path / "plain")
    unet.save_pretrained(tmp_path / "own")
    again: RetrievalUNet = RetrievalUNet.from_pretrained(tmp_path / "own").eval()
    given = base.inputs()
    expected = unet(**given, neighbors=features(unet, base, BOTH)).sample
    assert torch.equal(again(**given, neighbors=features(again, base, BOTH)).sample, expected)


def test_neighbor_attention_starts_as_zero(base: Base, tmp_path: Path) -> None:
    plain = base.plain()
    plain.save_pretrained(tmp_path)
    unet = RetrievalUNet.from_pretrained(tmp_path, neighbor_skips=(0, 2), neighbor_head_dim=16).eval()
    given = base.inputs()
    assert torch.equal(unet(**given, neighbors=features(unet, base, BOTH)).sample, plain(**given).sample)


def test_a_separate_encoder_starts_as_a_copy_and_goes_its_own_way(base: Base, tmp_path: Path) -> None:
    shared = loaded(base.plain(), tmp_path)
    separate = loaded(base.plain(), tmp_path, separate_neighbor_encoder=True)
    given = base.inputs()
    expected = shared(**given, neighbors=features(shared, base, BOTH)).sample
    assert torch.equal(separate(**given, neighbors=features(separate, base, BOTH)).sample, expected)

    assert separate.neighbor_encoder is not None
    torch.nn.init.normal_(separate.neighbor_encoder.conv_in.weight)
    assert torch.equal(separate(**given).sample, shared(**given).sample)
    assert not torch.allclose(separate(**given, neighbors=features(separate, base, BOTH)).sample, expected, atol=1e-3)
    separate.save_pretrained(tmp_path / "own")
    again = RetrievalUNet.from_pretrained(tmp_path / "own").eval()
    assert torch.equal(again.neighbor_encoder.conv_in.weight, separate.neighbor_encoder.conv_in.weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name: str) -> None:
    config, others, shape = PUBLISHED[name]
    with torch.device("meta"):
        unet = RetrievalUNet(**config, neighbor_skips=(2, 5, 8), neighbor_head_dim=32)
        other = {key: torch.empty(size) for key, size in others.items()}
        text = other.pop("encoder_hidden_states")
        given = {"added_cond_kwargs": other} if other else {}
        maps = unet.encode_neighbors(torch.empty(shape), text, **given)
        kv = unet.project_neighbors(maps, torch.zeros(1, 3, dtype=torch.long)[:, :1], torch.ones(1, 1))
        both = unet(torch.empty(shape), torch.empty(1), text, **given, neighbors=kv, and_without=True).sample
    assert both.shape == (2, config.get("out_channels", 4), *shape[2:])


def _row(value: Any, row: int) -> Any:
    if isinstance(value, dict):
        return {name: _row(part, row) for name, part in value.items()}
    return value[row : row + 1]
