"""One process or several, on one machine or several, by the same command (accelerate).

    python -m rag_diffusion run finetune                                       one process
    accelerate launch --num_processes 4 -m rag_diffusion run finetune          four GPUs
    torchrun --nproc-per-node 4 --nnodes 2 ... -m rag_diffusion run finetune   eight, on two machines that share a disk

`batch_size` is the batch of all processes together: each draws the whole of it, and takes its share of the rows. So the
loss and its gradient are those of one process, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from rag_diffusion.config import ObjectiveConfig
from rag_diffusion.device import choose_device
from rag_diffusion.errors import ConfigError, ModelError

T = TypeVar("T")


def open_accelerator(device: str) -> Accelerator:
    """The process group, as the launcher says; a single process where there is none.

    Args:
        device: `auto`, `cpu` or `cuda`. With several processes each gets a GPU of its own.

    Raises:
        ConfigError: cuda was asked for and there is none.

    Returns:
        The process group; it computes in the type that autocast says, not in one of its own.
    """
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a batch may have no neighbors at all
    on_cpu = choose_device(device).type == "cpu"
    return Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[unused])


def shares(config: ObjectiveConfig, accelerator: Accelerator) -> list[slice]:
    """Rows of the batch that this process of `accelerator` takes, cut into `config.accumulation` parts.

    Raises:
        ConfigError: the batch cannot be divided so.
    """
    parts = int(accelerator.num_processes) * config.accumulation
    if config.batch_size % parts:
        raise ConfigError(
            f"batch_size: expected a multiple of processes * accumulation = {accelerator.num_processes} * "
            f"{config.accumulation}, got {config.batch_size}; change batch_size or accumulation"
        )
    size = config.batch_size // parts
    first = int(accelerator.process_index) * config.accumulation
    return [slice(number * size, (number + 1) * size) for number in range(first, first + config.accumulation)]


def refuse_different_steps(accelerator: Accelerator, step: int) -> None:
    """Refuse to go on where the processes of `accelerator` have read checkpoints of another `step`.

    Raises:
        ModelError: they have.
    """
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ModelError(
            f"training: expected every process at the same step, got {steps}; "
            "all machines must see the same project folder"
        )


def explain_out_of_memory(config: ObjectiveConfig, run: Callable[[], T]) -> T:
    """What `run` returns; of a lack of memory it is said what in `config` to change.

    Raises:
        ModelError: memory did not suffice.
    """
    try:
        return run()
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"training: expected memory for {config.batch_size} images, {config.accumulation} part(s) a process, "
            f"got: {str(error).splitlines()[0]}; raise accumulation (the result stays the same) or lower batch_size"
        ) from None
