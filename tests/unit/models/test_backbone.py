"""The seam of any network: a small transformer has it by what `NeighborBackbone` gives, and draws with neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rag_diffusion.models.backbone import Backbone, NeighborBackbone
from rag_diffusion.models.codec import PixelCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.neighbor_attention import NeighborAttention
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.models.bases import BASES, loaded
from tests.unit.sampling.prompts import quiet

WIDTH, PATCH = 32, 2


@dataclass(frozen=True)
class Tokens:
    """What a transformer holds between two blocks: tokens (B, h * w, D), text (B, L, D), its mask, (h, w)."""

    image: Tensor
    text: Tensor
    padding: Tensor | None
    size: tuple[int, int]


class Transformer(NeighborBackbone[Tokens], nn.Module):
    """Patches of 2 x 2 pixels, one block before the seam and one after it."""

    config = SimpleNamespace(in_channels=3, sample_size=16, neighbor_roles=False)
    size_multiple = PATCH

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.time, self.text = nn.Linear(1, WIDTH), nn.Linear(text_width, WIDTH)
        before, after = (nn.TransformerDecoderLayer(WIDTH, 4, 64, 0.0, batch_first=True) for _ in range(2))
        self.before, self.after = before, after
        self.out = nn.Linear(WIDTH, 3 * PATCH**2)
        self.neighbor_attention = nn.ModuleDict({"tokens": NeighborAttention(WIDTH, 16)})

    @property
    def dtype(self) -> torch.dtype:
        return self.out.weight.dtype

    def encode(self, sample: Tensor, timestep: Tensor | float, conditions: Any) -> Tokens:
        patches = self.patch(sample)
        time = self.time(torch.as_tensor(timestep).to(sample).reshape(-1, 1) / 1000)
        text = self.text(conditions.text)
        padding = None if conditions.text_mask is None else conditions.text_mask == 0
        image = self.before(patches.flatten(2).mT + time[:, None], text, memory_key_padding_mask=padding)
        return Tokens(image, text, padding, (patches.shape[2], patches.shape[3]))

    def decode(self, encoded: Tokens) -> Tensor:
        tokens = self.out(self.after(encoded.image, encoded.text, memory_key_padding_mask=encoded.padding))
        return nn.functional.pixel_shuffle(tokens.mT.unflatten(2, encoded.size), PATCH)

    def attended_maps(self, encoded: Tokens) -> dict[str, Tensor]:
        return {"tokens": encoded.image.mT.unflatten(2, encoded.size)}

    def with_maps(self, encoded: Tokens, maps: Mapping[str, Tensor]) -> Tokens:
        return replace(encoded, image=maps["tokens"].flatten(2).mT)

    def joined(self, one: Tokens, other: Tokens) -> Tokens:
        image, text = torch.cat([one.image, other.image]), torch.cat([one.text, other.text])
        return Tokens(image, text, None if one.padding is None else torch.cat([one.padding] * 2), one.size)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None, *, maps_only: bool = False, **seam: Any,
    ) -> Any:  # fmt: skip
        told = SimpleNamespace(text=encoder_hidden_states, text_mask=encoder_attention_mask)
        encoded = self.encode(sample, timestep, told)
        return self.attended_maps(encoded) if maps_only else SimpleNamespace(sample=self.decoded(encoded, **seam))


@pytest.fixture
def transformer(text_encoder: TextEncoder) -> Transformer:
    torch.manual_seed(0)
    return Transformer(text_encoder.width).eval()


@pytest.fixture
def pipe(transformer: Transformer, text_encoder: TextEncoder) -> RetrievalPipeline:
    parts: dict[str, Any] = {"codec": PixelCodec(), "text_encoder": text_encoder, "schedule": noise_schedule()}
    return quiet(RetrievalPipeline(Generator(unet=cast(Any, transformer), image_size=16, **parts)))


def shown(seed: int = 0) -> Neighbor:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Neighbor(image=pixels, caption=f"ring {seed}", pair_id=f"ring/{seed}")


def drawn(pipe: RetrievalPipeline, *neighbors: Neighbor, **more: Any) -> Any:
    given = {"num_inference_steps": 4, "output_type": "latent", "generator": seeded([1])} | more
    return pipe("a red dot", list(neighbors), **given)


def test_attend_between_the_halves_is_the_whole(transformer: Transformer) -> None:
    network: Backbone[Tokens] = transformer
    transformer.randomize_output(0.5)
    text = torch.randn(2, 5, transformer.text.in_features)
    maps = network.encode_neighbors(torch.randn(3, 3, 16, 16), text[:1].expand(3, -1, -1))
    kv = network.project_neighbors(maps, torch.tensor([[0, 1], [2, 0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    sample, timestep = torch.randn(2, 3, 16, 16), torch.tensor([500.0, 20.0])
    encoded = network.encode(sample, timestep, SimpleNamespace(text=text, text_mask=None))
    whole = network(sample, timestep, text, neighbors=kv, and_without=True).sample
    torch.testing.assert_close(whole[:2], network.decode(network.attend(encoded, kv)))
    torch.testing.assert_close(whole[2:], network.decode(encoded))
    assert not torch.allclose(whole[:2], whole[2:], atol=1e-3)


@pytest.mark.parametrize("name", list(BASES))
def test_the_unet_is_the_same_in_three_steps(name: str, tmp_path: Any) -> None:
    base = BASES[name]
    network: Backbone[Any] = loaded(base.plain(), tmp_path)
    assert isinstance(network, RetrievalUNet)
    given = base.inputs(2)
    added = {key: given[key] for key in ("class_labels", "added_cond_kwargs") if key in given}
    maps = network.encode_neighbors(given["sample"], given["encoder_hidden_states"], **added)
    kv = network.project_neighbors(maps, torch.tensor([[0], [1]]), torch.ones(2, 1))
    seen: list[Any] = []
    original = network.encode
    network.encode = lambda *args: seen.append(original(*args)) or seen[-1]  # type: ignore[func-returns-value,method-assign]
    whole = network(**given, neighbors=kv).sample
    assert torch.equal(whole, network.decode(network.attend(seen[0], kv)))


def test_untrained_neighbors_change_nothing(pipe: RetrievalPipeline) -> None:
    text = Guidance(mode="text", text_guidance_scale=3.0)  # the others have steps that neighbors alone guide
    plain = drawn(pipe, num_neighbors=0, guidance=text).images
    torch.testing.assert_close(drawn(pipe, shown(), guidance=text).images, plain, atol=1e-5, rtol=1e-4)


def test_it_draws_with_neighbors(pipe: RetrievalPipeline, transformer: Transformer) -> None:
    plain = drawn(pipe, num_neighbors=0).images
    transformer.randomize_output(0.5)
    one, other = drawn(pipe, shown(0), shown(1)), drawn(pipe, shown(2))
    assert not torch.allclose(one.images, plain, atol=1e-3)
    assert not torch.allclose(one.images, other.images, atol=1e-3)
    provenance = one.provenance[0]
    looked = [source.attention for source in provenance.neighbors]
    assert sum(looked) + provenance.null_attention == pytest.approx(1, abs=1e-3)
    assert min(looked) > 0
    assert one.heat_maps[0][0].shape == (8, 8)
    weighted = drawn(pipe, replace(shown(0), weight=0.2), shown(1)).provenance[0].neighbors[0]
    assert weighted.attention < looked[0]


def test_other_sizes_and_a_batch(pipe: RetrievalPipeline, transformer: Transformer) -> None:
    transformer.randomize_output(0.5)
    assert drawn(pipe, shown(), height=8, width=24).images.shape == (1, 3, 8, 24)
    with pytest.raises(ValueError, match="height, width: expected multiples of 2 pixels"):
        drawn(pipe, shown(), height=15)
    both = pipe(
        ["a red dot", "a bar"], [[shown(0)], [shown(1)]], num_inference_steps=4, output_type="latent",
        generator=seeded([1, 2]),
    ).images  # fmt: skip
    torch.testing.assert_close(both[:1], drawn(pipe, shown(0)).images, atol=1e-4, rtol=1e-3)


def test_a_network_without_its_halves_cannot_be_made() -> None:
    class Half(NeighborBackbone[Tokens], nn.Module):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]
