"""The state of a training run, from its beginning or its last checkpoint to its end.

ema <- d ema + (1 - d) weights,   d = min(ema_decay, (1 + step) / (10 + step))

Trained, averaged and kept in checkpoints are the parameters that require a gradient (see `models.trainable`); the
others are those of the base, whose hash stands in the name of the checkpoint's folder.
"""

from __future__ import annotations

import copy
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rag_diffusion.config import FinetuneConfig, OptimizationConfig
from rag_diffusion.device import autocast_dtype
from rag_diffusion.errors import ConfigError
from rag_diffusion.files import recover_dir
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.tracking import Tracker
from rag_diffusion.training.checkpoint import load_checkpoint, save_checkpoint
from rag_diffusion.training.divergence import LossWatch
from rag_diffusion.training.faster import norms_in_half
from rag_diffusion.training.optimizer import Optimizer
from rag_diffusion.training.precision import LossScale
from rag_diffusion.training.processes import refuse_different_steps
from rag_diffusion.training.sharding import own_rows, refuse_to_share_out, share_out, whole
from rag_diffusion.training.text_cache import TextCache

_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """Everything that changes from step to step, and what it is changed with.

    Attributes:
        generator: whose U-Net is trained.
        config: of the run.
        accelerator: of this process.
        module: the `TrainingStep`, wrapped by the accelerator.
        weights: trained parameters by name.
        average: their running average, by the same names.
        optimizer: moves the weights.
        texts: features of captions.
        scale: of the loss.
        watch: sees whether the run diverges.
        scratch: folder of the checkpoint.
        plain: the U-Net as it was before it was shared out among the processes; None: it is not.
        saved: step of the last checkpoint; None before the first.
        step: steps made.
        seconds: that they took, also before an interruption.
        losses: (step, loss).
        gains: what was measured on validation pairs, with step and seconds.
    """

    generator: Generator
    config: OptimizationConfig
    accelerator: Accelerator
    module: nn.Module
    weights: dict[str, nn.Parameter]
    average: dict[str, Tensor]
    optimizer: Optimizer
    texts: TextCache
    scale: LossScale
    watch: LossWatch
    scratch: Path
    plain: RetrievalUNet | None = None
    saved: int | None = None
    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    gains: list[dict[str, float]] = field(default_factory=list)

    @property
    def first(self) -> bool:
        """Whether this process writes and logs."""
        return bool(self.accelerator.is_main_process)


def begin(
    generator: Generator,
    config: OptimizationConfig,
    accelerator: Accelerator,
    scratch: Path,
    tracker: Tracker,
    module: nn.Module,
    *,
    shard: bool = False,
) -> Run:
    """A run at its last checkpoint, or at step 0.

    Args:
        generator: whose parameters are trained, in place.
        config: of the run.
        accelerator: of `open_accelerator`.
        scratch: folder of the checkpoint.
        tracker: goes on with the run that the checkpoint names.
        module: what computes a step with these parameters; wrapped where there are several processes.
        shard: whether these share the parameters out.

    Raises:
        ModelError: the checkpoint belongs to another model, or the processes read different ones.
        ConfigError: the precision is not possible here, or nobody is there to share with.
    """
    if config.precision == "fp16" and generator.device.type != "cuda":
        device = generator.device.type
        raise ConfigError(f"precision: expected a CUDA GPU for fp16, got {device}; use bf16, fp32 or auto")
    if generator.device.type == "cuda":
        norms_in_half(generator.unet)
        torch.backends.cudnn.benchmark = True
    plain = None
    if shard:
        refuse_to_share_out(config, accelerator)
        unet, plain = generator.unet.train(), copy.deepcopy(generator.unet).cpu()
        share_out(module, accelerator)
    else:  # channels last: a third faster on CPUs, tensor cores like it too
        unet = generator.unet.train().to(memory_format=torch.channels_last)
    weights = {name: value for name, value in unet.named_parameters() if value.requires_grad}
    prior_rate = config.prior_learning_rate if isinstance(config, FinetuneConfig) else None
    optimizer = Optimizer(weights, config.optimizer, config.learning_rate, prior_rate)
    average = {name: value.detach().clone() for name, value in weights.items()}
    if accelerator.is_main_process:
        recover_dir(scratch)
    accelerator.wait_for_everyone()
    meta = load_checkpoint(scratch, weights, average, optimizer)
    run = Run(
        generator=generator,
        config=config,
        accelerator=accelerator,
        module=module if plain is not None else accelerator.prepare_model(module),
        weights=weights,
        average=average,
        optimizer=optimizer,
        texts=TextCache(generator.text_encoder),
        scale=LossScale.for_dtype(autocast_dtype(config.precision, generator.device)),
        watch=LossWatch(config.warmup_steps),
        scratch=scratch,
        plain=plain,
    )
    if meta is not None:
        _go_on(run, meta, tracker)
    refuse_different_steps(accelerator, run.step)
    return run


def _go_on(run: Run, meta: dict[str, Any], tracker: Tracker) -> None:
    run.saved = run.step = int(meta["step"])
    run.seconds, run.gains = float(meta["seconds"]), list(meta["gains"])
    run.losses = [(int(step), float(loss)) for step, loss in meta["losses"]]
    run.scale.value, run.scale.good_steps = meta["loss_scale"]
    run.watch = LossWatch(run.config.warmup_steps, run.losses)
    if run.first:
        if meta["run_id"]:
            tracker.resume(meta["run_id"])
        _LOG.info("resuming at step %d of %d", run.step, run.config.steps)


def save(run: Run, tracker: Tracker) -> None:
    """Replace the checkpoint of `run`, unless it is in doubt; one process writes, the others wait for it.

    Args:
        run: where it is now.
        tracker: whose run the checkpoint names.
    """
    if run.step == run.saved or run.watch.in_doubt:
        return
    weights, averages, moments = whole(run.weights), whole(run.average), whole(run.optimizer.state())
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        return
    if run.first:
        meta = {
            "step": run.step,
            "seconds": run.seconds,
            "losses": run.losses,
            "gains": run.gains,
            "loss_scale": [run.scale.value, run.scale.good_steps],
            "run_id": tracker.run_id,
        }
        save_checkpoint(run.scratch, weights, averages, moments, meta)
    run.accelerator.wait_for_everyone()
    run.saved = run.step


@torch.no_grad()
def average(run: Run) -> None:
    """Move the average of `run` towards the weights of the step just made, in place."""
    step = run.step + 1
    decay = min(run.config.ema_decay, (1 + step) / (10 + step))
    weights = [value.detach() for value in run.weights.values()]
    torch._foreach_lerp_(own_rows(run.average.values()), own_rows(weights), 1 - decay)


def averaged(run: Run) -> Generator:
    """A copy of the generator of `run` with averaged weights; all processes ask for it where these are in shares."""
    generator = copy.copy(run.generator)
    unet = run.generator.unet if run.plain is None else run.plain
    generator.unet = copy.deepcopy(unet).to(run.generator.device).eval()
    _copy_into(generator.unet, whole(run.average))
    return generator


def end(run: Run) -> None:
    """Leave the averaged weights in the generator of `run`, whole, adapters merged into them."""
    if run.plain is not None:
        run.generator.unet, device = run.plain, run.generator.device
        run.plain.to(device)
    unet = run.generator.unet
    _copy_into(unet, whole(run.average))
    if getattr(unet, "peft_config", None):
        unet.fuse_lora()
        unet.unload_lora()
        with suppress(AttributeError):
            del unet.peft_config
    unet.eval()


@torch.no_grad()
def _copy_into(unet: nn.Module, values: dict[str, Tensor]) -> None:
    weights = dict(unet.named_parameters())
    for name, value in values.items():
        weights[name].copy_(value)
