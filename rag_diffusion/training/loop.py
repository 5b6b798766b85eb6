"""The training loop of `pretrain` and `finetune`: resumable, by one process or several (see `training.processes`).

warm-up to the learning rate, constant, linear to zero over the last two fifths of the steps, or of `max_minutes` where
they end first

Noise, timesteps, targets and neighbors of a step follow from (seed, step) alone, and each process takes its share of
them in `accumulation` parts of equal size: the mean of their losses is that of the whole batch, and so is the gradient.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator

from rag_diffusion.config import ObjectiveConfig, OptimizationConfig
from rag_diffusion.device import autocast_dtype
from rag_diffusion.errors import ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.progress import Progress
from rag_diffusion.tracking import Tracker
from rag_diffusion.training import run as state
from rag_diffusion.training.data import Batch, Prefetcher, StepBatches
from rag_diffusion.training.processes import explain_out_of_memory, open_accelerator, shares
from rag_diffusion.training.run import Run
from rag_diffusion.training.sharding import whole
from rag_diffusion.training.step import TrainingStep, batch_loss, draw_noised
from rag_diffusion.training.validation import CURVE_BY_STEP, GainProbe, neighbor_gain, placement_curve

_LOG = logging.getLogger(__name__)

_DECAY_SHARE = 0.4
_LOG_EVERY = 10

Hook = Callable[[Generator, int], Mapping[str, float] | None]


@dataclass(kw_only=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        generator: with the averaged weights.
        losses: (step, mean loss of its batch), from step 1.
        gains: neighbor gains and scores of hooks with their `step` and `seconds`, where they were measured.
        images_seen: targets in all steps.
        seconds: of all steps, also those before an interruption.
        processes: that trained.
    """

    generator: Generator
    losses: list[tuple[int, float]]
    gains: list[dict[str, float]]
    images_seen: int
    seconds: float
    processes: int = 1


def train(
    generator: Generator,
    batches: StepBatches,
    config: ObjectiveConfig,
    *,
    seed: int,
    scratch: Path,
    tracker: Tracker,
    probe: GainProbe | None = None,
    hooks: Sequence[tuple[int, Hook]] = (),
    accelerator: Accelerator | None = None,
    shard: bool = False,
) -> TrainResult:
    """Train the parameters that require a gradient, from the last checkpoint where there is one.

    Args:
        generator: trained in place; ends with the averaged weights, adapters merged into them.
        batches: targets and neighbors by step.
        config: steps, rates, intervals.
        seed: of noise and timesteps.
        scratch: folder of the checkpoint; its name must hold a fingerprint of everything but `steps`. Several machines
            must see the same one.
        tracker: gets loss, learning rate and neighbor gain by step.
        probe: validation pairs of the neighbor gain.
        hooks: (n, f): f is called with the averaged generator and the step every n steps and at the end, by the first
            process; the scores that it returns stand beside the neighbor gains.
        accelerator: of `open_accelerator`; None opens one for the generator's device.
        shard: whether the processes share weights, averages and moments out, see `training.sharding`.

    Returns:
        Losses, neighbor gains, seconds; the weights in `generator` are the averaged ones.

    Raises:
        ModelError: the run has diverged or memory does not suffice, or the checkpoint belongs to another model.
        ConfigError: the batch cannot be shared among the processes, the weights cannot be, or the precision is not
            possible here.
    """
    accelerator = accelerator or open_accelerator(generator.device.type)
    rows = shares(config, accelerator)
    module = TrainingStep(generator, config.precision, config.neighbor_gradient, every_weight=shard)
    run = state.begin(generator, config, accelerator, scratch, tracker, module, shard=shard)
    if run.first:
        precision = str(autocast_dtype(config.precision, generator.device))
        facts = {"batch": config.batch_size, "precision": precision, "processes": accelerator.num_processes}
        tracker.set_tags({name: str(value) for name, value in facts.items()})
    if generator.device.type == "cuda":
        # at once, else a GPU waits for a tokenizer at every step
        run.texts.remember(batches.captions, generator.device)
    explain_out_of_memory(config, lambda: _steps(run, batches, rows, seed, config, tracker, probe, hooks))
    state.end(run)
    return TrainResult(
        generator=generator,
        losses=run.losses,
        gains=run.gains,
        images_seen=run.step * config.batch_size,
        seconds=run.seconds,
        processes=int(accelerator.num_processes),
    )


def _steps(
    run: Run,
    batches: StepBatches,
    rows: Sequence[slice],
    seed: int,
    config: ObjectiveConfig,
    tracker: Tracker,
    probe: GainProbe | None,
    hooks: Sequence[tuple[int, Hook]],
) -> None:
    with Prefetcher(batches, rows, run.generator.device) as ahead:
        drive(
            run,
            tracker,
            compute=lambda: _step(run, ahead[run.step], rows, seed, config),
            validate=lambda: _validate(run, probe, tracker, hooks),
        )


def drive(run: Run, tracker: Tracker, *, compute: Callable[[], float], validate: Callable[[], None]) -> None:
    """Steps until the last one, or until the time is over; checkpoints in between and at the end.

    Args:
        run: of `training.run.begin`.
        tracker: gets loss and learning rate.
        compute: the loss of the step with number `run.step`, its gradient left in the weights.
        validate: called after every step.

    Raises:
        ModelError: the run has diverged.
    """
    config = run.config
    start = time.monotonic() - run.seconds
    with _progress(run) as progress:
        while run.step < config.steps and not _out_of_time(run):
            loss = compute()
            _update(run)
            run.step += 1
            loss, run.seconds = _agree(run.accelerator, loss, time.monotonic() - start)
            _judge(run, loss)
            if progress is not None:
                progress.note(f"loss {loss:.4f}")
                progress.update()
                _log(run, tracker)
            validate()
            if run.step % config.checkpoint_every == 0:
                state.save(run, tracker)
    if run.watch.in_doubt:
        _stop(run, run.step, f"a loss near the lowest so far, {run.watch.lowest:.4g}", f"{run.losses[-1][1]:.4g}")
    state.save(run, tracker)


def _step(run: Run, batches: Sequence[Batch], rows: Sequence[slice], seed: int, config: ObjectiveConfig) -> float:
    """The mean loss of this process' rows; its gradient is left in the weights."""
    total = 0.0
    for number, (batch, part) in enumerate(zip(batches, rows, strict=True)):
        draws = torch.Generator(run.generator.device).manual_seed(seed * 1_000_003 + run.step)
        noised = draw_noised(run.generator, batch.images, part, config.batch_size, draws)
        waiting: AbstractContextManager[None] = (
            nullcontext() if number == len(rows) - 1 else run.accelerator.no_sync(run.module)
        )
        with waiting:
            loss = batch_loss(run.module, run.generator, run.texts, batch, noised, config) / len(rows)
            run.accelerator.backward(loss * run.scale.value)
        total += float(loss.detach())
    return total


def _update(run: Run) -> None:
    weights = list(run.weights.values())
    run.scale.unscale(weights)
    norm = float(whole({"": run.accelerator.clip_grad_norm_(weights, run.config.max_grad_norm)})[""])
    if run.scale.accept(math.isfinite(norm)):
        run.optimizer.step(_rate(run.step + 1, run.config, run.seconds))
        state.average(run)
    elif run.scale.exhausted:
        _stop(run, run.step + 1, "a finite loss and gradient", f"a gradient of norm {norm}")
    else:
        run.optimizer.forget()


def _agree(accelerator: Accelerator, loss: float, seconds: float) -> tuple[float, float]:
    """Mean loss over all processes, and the first one's clock: what all of them decide by."""
    if accelerator.num_processes == 1:
        return loss, seconds
    mine = [loss / accelerator.num_processes, seconds if accelerator.is_main_process else 0.0]
    mean, first_clock = accelerator.reduce(torch.tensor(mine, device=accelerator.device), "sum").tolist()
    return mean, first_clock


def _judge(run: Run, loss: float) -> None:
    """Record a loss.

    Raises:
        ModelError: the run has diverged.
    """
    if not math.isfinite(loss):
        _stop(run, run.step, "a finite loss", str(loss))
    run.losses.append((run.step, loss))
    run.watch.see(run.step, loss)
    if run.watch.diverged:
        _stop(run, run.step, f"a loss near the lowest so far, {run.watch.lowest:.4g}", f"{run.watch.level:.4g}")


def _stop(run: Run, step: int, expected: str, got: str) -> NoReturn:
    kept = "no checkpoint was written" if run.saved is None else f"the checkpoint of step {run.saved} is kept"
    raise ModelError(
        f"training has diverged: expected {expected}, got {got} at step {step}; lower learning_rate (now "
        f"{run.config.learning_rate:g}) or use precision fp32, and run it again; {kept} in {run.scratch.name}"
    )


def _rate(step: int, config: OptimizationConfig, seconds: float = 0.0) -> float:
    """Learning rate of the step with number `step`, from 1, after so much time."""
    warm = min(1.0, step / max(config.warmup_steps, 1))
    left = (config.steps - step + 1) / config.steps
    if config.max_minutes:
        left = min(left, max(0.0, 1 - seconds / (60 * config.max_minutes)))
    return config.learning_rate * min(warm, left / _DECAY_SHARE, 1.0)


def _log(run: Run, tracker: Tracker) -> None:
    if run.step % _LOG_EVERY == 0:
        recent = [value for _, value in run.losses[-_LOG_EVERY:]]
        rate = _rate(run.step, run.config, run.seconds)
        tracker.log_metrics({"loss": sum(recent) / len(recent), "learning_rate": rate}, run.step)


def _validate(run: Run, probe: GainProbe | None, tracker: Tracker, hooks: Sequence[tuple[int, Hook]]) -> None:
    """Neighbor gain and hooks, where this step is one of theirs; the first process works and the others wait."""
    last = run.step == run.config.steps
    measured = last or run.step % run.config.validate_every == 0
    due = [hook for every, hook in hooks if last or run.step % every == 0]
    averaged = state.averaged(run) if (measured or due) and (run.first or run.plain is not None) else None
    if run.first and averaged is not None:
        scores = _measure(run, averaged, probe, tracker) if measured else {}
        for hook in due:
            scores |= hook(averaged, run.step) or {}
        if measured or scores:
            run.gains.append({"step": run.step, "seconds": run.seconds} | scores)
    if measured or due:
        run.accelerator.wait_for_everyone()


def _measure(run: Run, averaged: Generator, probe: GainProbe | None, tracker: Tracker) -> dict[str, float]:
    gains: dict[str, float] = {}
    if probe is not None:
        gains = neighbor_gain(averaged, probe) | placement_curve(averaged, probe, ("retrieved",), CURVE_BY_STEP)
    tracker.log_metrics({f"validation/{name}": value for name, value in gains.items()}, run.step)
    recent = [value for _, value in run.losses[-100:]]
    words = ", ".join(f"{name} {value:.4f}" for name, value in gains.items())
    _LOG.info("step %d: loss %.4f; %s", run.step, sum(recent) / len(recent), words)
    return gains


def _progress(run: Run) -> AbstractContextManager[Progress | None]:
    if not run.first:
        return nullcontext()
    return Progress(total=run.config.steps, desc="training", unit="step", initial=run.step)


def _out_of_time(run: Run) -> bool:
    return run.config.max_minutes > 0 and run.seconds > 60 * run.config.max_minutes
