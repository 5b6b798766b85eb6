"""Weights, their averages and moments in shares among processes, for a base that fits on none of them (FSDP).

Each process keeps its rows of every tensor; the whole weights are there while a step computes with them. Everything
here that makes a tensor whole must be called by all processes alike: they send each other their rows.

Source: PyTorch FSDP, Zhao et al. (arXiv 2304.11277), as `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rag_diffusion.config import OptimizationConfig
from rag_diffusion.errors import ConfigError


def refuse_to_share_out(config: OptimizationConfig, accelerator: Accelerator) -> None:
    """Refuse what cannot be trained in shares.

    Args:
        config: of the run.
        accelerator: the processes.

    Raises:
        ConfigError: there is one process alone, or the optimizer needs whole matrices.
    """
    if accelerator.num_processes == 1:
        raise ConfigError(
            "shard: expected several processes that share the weights, got one; start it by `accelerate launch` or "
            "torchrun, or set shard: false"
        )
    if config.optimizer != "adamw":
        raise ConfigError(
            f"shard: expected the optimizer adamw, which moves each number by itself, got {config.optimizer}; set "
            "optimizer: adamw or shard: false"
        )


def share_out(module: nn.Module, accelerator: Accelerator) -> None:
    """Leave each process of an `accelerator` its rows of the parameters of a `module`, in place."""
    mesh = init_device_mesh(accelerator.device.type, (int(accelerator.num_processes),))
    fully_shard(module, mesh=mesh)


def whole(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`values` by name as they are without shares; for tensors that are in none, themselves."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in values.items()}


def own_rows(values: Iterable[Tensor]) -> list[Tensor]:
    """What this process has of `values`, sharing their memory."""
    return [value.to_local() if isinstance(value, DTensor) else value for value in values]


def in_shares_of(like: Tensor, value: Tensor) -> Tensor:
    """A tensor as another one is laid out.

    Args:
        like: in shares, or on some device.
        value: a whole tensor, of the same shape; all processes have it.

    Returns:
        A copy.
    """
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device, copy=True)
