"""What a training step of neighbor attention keeps for its backward pass, at the size of published bases.

    python benchmarks/training_memory.py

The architectures are the published ones, their tensors have no data (device `meta`), so nothing is downloaded and no
memory is needed: what autograd saves is counted, each storage once and no parameter. Attention saves q, k, v, its
output and one number a row and head, as kernels on GPUs do. `tests/unit/training/test_training_memory.py` counts the
same of small networks with data, whose gradients are those of torch's own attention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rag_diffusion.models.trainable import Parts, train_parts
from rag_diffusion.models.unet import RetrievalUNet
from tests.unit.models.bases import PUBLISHED

SKIPS = {"stable-diffusion-1.5": (6, 8), "sdxl-base-1.0": (5, 8), "IF-I-M": ()}
_ATTENTION = F.scaled_dot_product_attention


@dataclass(frozen=True)
class Cost:
    """Of one image and step.

    Attributes:
        saved: bytes that the backward pass needs.
        flops: of forward and backward pass, neighbors encoded.
    """

    saved: int
    flops: int


class _Fused(torch.autograd.Function):
    """softmax(q k) v, which saves what a fused kernel saves."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        found = _ATTENTION(query, key, value, **options)
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, found, rows)
        ctx.options = options
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value = (one.detach().requires_grad_() for one in ctx.saved_tensors[:3])
        with torch.enable_grad():
            found = _ATTENTION(query, key, value, **ctx.options)
        return (*torch.autograd.grad(found, (query, key, value), gradients[0]), None)


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Attention that saves what a fused kernel saves, wherever torch's is called."""

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        found: Tensor = _Fused.apply(query, key, value, options)
        return found

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _ATTENTION  # type: ignore[assignment]


@contextlib.contextmanager
def counted(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Storage -> bytes, of all that autograd saves inside the block but the parameters of `model`."""
    own = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # else storages are freed and their numbers come again

    def save(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(save, lambda value: value):
        yield kept


def step(unet: RetrievalUNet, given: dict[str, Any], neighbors: int, gradient: bool) -> Tensor:
    """One prediction with neighbors, as `training.step.TrainingStep` makes it.

    Args:
        unet: the network.
        given: of its forward, B images.
        neighbors: of each image; they are as large as the images.
        gradient: whether it goes through the encoding of the neighbors.
    """
    batch = len(given["sample"])
    added = {name: value for name, value in given.items() if name == "added_cond_kwargs"}
    added = {name: _repeat(value, neighbors) for name, value in added.items()}
    with torch.set_grad_enabled(gradient):
        maps = unet.encode_neighbors(
            given["sample"].repeat(neighbors, 1, 1, 1), given["encoder_hidden_states"].repeat(neighbors, 1, 1), **added
        )
    device = given["sample"].device
    rows = torch.arange(batch * neighbors, device=device).reshape(batch, neighbors)
    features = unet.project_neighbors(maps, rows, torch.ones(batch, neighbors, device=device))
    found: Tensor = unet(**given, neighbors=features).sample
    return found


def _repeat(values: dict[str, Tensor], times: int) -> dict[str, Tensor]:
    return {name: value.repeat(times, 1) for name, value in values.items()}


def cost(name: str, parts: Parts, neighbors: int, *, dtype: torch.dtype, gradient: bool = True) -> Cost:
    """Of one image at the size of a published base.

    Args:
        name: of `PUBLISHED`.
        parts: what is trained.
        neighbors: of the image.
        dtype: of weights and activations.
        gradient: as in `step`.
    """
    config, shapes, sample = PUBLISHED[name]
    with torch.device("meta"):
        unet = RetrievalUNet(**config, neighbor_skips=SKIPS[name]).to(dtype).train()
        given: dict[str, Any] = {"sample": torch.empty(sample, dtype=dtype), "timestep": torch.tensor([500])}
        texts = {key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}
    given["encoder_hidden_states"] = texts.pop("encoder_hidden_states")
    if texts:
        given["added_cond_kwargs"] = texts
    train_parts(unet, parts)
    with fused_attention(), FlopCounterMode(display=False) as flops:
        with counted(unet) as kept:  # the backward pass saves as well, and lets go of it at once
            loss = step(unet, given, neighbors, gradient).sum()
        loss.backward()
    return Cost(saved=sum(kept.values()), flops=flops.get_total_flops())


def main() -> None:
    """Print the table of docs/diffusers.md."""
    print("| base | trained | neighbors | neighbor_gradient | 16 bit, GB | 32 bit, GB | TFLOP |")
    for name in PUBLISHED:
        for parts, neighbors, gradient in (("neighbors", 3, False), ("all", 3, False), ("all", 3, True)):
            half, full = (
                cost(name, parts, neighbors, dtype=dtype, gradient=gradient)  # type: ignore[arg-type]
                for dtype in (torch.bfloat16, torch.float32)
            )
            told = f"| {name} | {parts} | {neighbors} | {str(gradient).lower()} "
            print(f"{told}| {half.saved / 1e9:.2f} | {full.saved / 1e9:.2f} | {half.flops / 1e12:.2f} |", flush=True)


if __name__ == "__main__":
    main()
