"""The training loop of `pretrain` and `finetune`: resumable, with an average of the weights.

warm-up to the learning rate, constant, linear to zero over the last two fifths of the steps
ema <- d ema + (1 - d) weights,   d = min(ema_decay, (1 + step) / (10 + step))
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rag_diffusion.config import TrainConfig
from rag_diffusion.device import autocast, autocast_dtype
from rag_diffusion.errors import ModelError
from rag_diffusion.models.generator import NUM_TRAIN_TIMESTEPS, Generator
from rag_diffusion.models.text_encoder import Conditioner, TextFeatures, encode_all
from rag_diffusion.progress import Progress
from rag_diffusion.tracking import Tracker
from rag_diffusion.training.checkpoint import load_checkpoint, save_checkpoint
from rag_diffusion.training.data import Batch, Batches
from rag_diffusion.training.objective import add_noise, stratified_timesteps, velocity_loss
from rag_diffusion.training.optimizer import Optimizer
from rag_diffusion.training.validation import GainProbe, neighbor_gain

_GRADIENT_NORM = 1.0
_DECAY_SHARE = 0.4
_LOG_EVERY = 10

Validate = Callable[[Generator, int], None]


@dataclass(kw_only=True)
class TrainResult:
    """What a run leaves behind: the averaged weights are in `generator`."""

    generator: Generator
    losses: list[tuple[int, float]]
    gains: list[dict[str, float]]
    images_seen: int
    seconds: float


@dataclass(kw_only=True)
class _Run:
    generator: Generator
    config: TrainConfig
    optimizer: Optimizer
    ema: dict[str, Tensor]
    texts: _TextMemo
    step: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    gains: list[dict[str, float]] = field(default_factory=list)


class _TextMemo:
    """Each caption is encoded once."""

    def __init__(self, encoder: Conditioner) -> None:
        self._encoder = encoder
        self._memo: dict[str, TextFeatures] = {}

    def __call__(self, texts: tuple[str, ...], device: torch.device) -> TextFeatures:
        new = sorted(set(texts) - set(self._memo))
        if new:
            features = encode_all(self._encoder, new)
            self._memo |= {text: features[[row]] for row, text in enumerate(new)}
        found = TextFeatures.cat([self._memo[text] for text in texts])
        return found.map(lambda value: value.float() if value.is_floating_point() else value).to(device)


def train(
    generator: Generator,
    batches: Batches,
    config: TrainConfig,
    *,
    seed: int,
    scratch: Path,
    tracker: Tracker,
    probe: GainProbe | None = None,
    on_validate: Validate | None = None,
) -> TrainResult:
    """Train, from the last checkpoint where there is one.

    Args:
        generator: trained in place; ends with the averaged weights.
        batches: targets and neighbors by step.
        config: steps, rates, intervals.
        seed: of noise and timesteps.
        scratch: folder of the checkpoint; its name must hold a fingerprint of everything but `steps`.
        tracker: gets loss, learning rate and neighbor gain by step.
        probe: validation pairs of the neighbor gain.
        on_validate: called with the averaged generator and the step at each validation.

    Raises:
        ModelError: the loss is no longer finite, or the checkpoint belongs to another model.
    """
    run = _begin(generator, config, scratch, tracker)
    start, first = time.monotonic() - run.seconds, run.step
    tokens = {
        "batch": config.batch_size,
        "precision": str(autocast_dtype(config.precision, generator.device)),
    }
    tracker.set_tags({name: str(value) for name, value in tokens.items()})
    with Progress(total=config.steps, desc="training", unit="step", initial=first) as shown:
        while run.step < config.steps and not _out_of_time(run, config):
            loss = _step(run, batches[run.step], seed)
            run.step += 1
            run.seconds = time.monotonic() - start
            run.losses.append((run.step, loss))
            shown.note(f"loss {loss:.4f}")
            shown.update()
            if run.step % _LOG_EVERY == 0:
                recent = [value for _, value in run.losses[-_LOG_EVERY:]]
                tracker.log_metrics(
                    {"loss": sum(recent) / len(recent), "learning_rate": _rate(run.step, config)},
                    run.step,
                )
            if run.step % config.validate_every == 0 or run.step == config.steps:
                _validate(run, probe, tracker, on_validate)
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                _save(run, scratch, tracker)
    if _out_of_time(run, config):
        _save(run, scratch, tracker)
    _use_average(run)
    return TrainResult(
        generator=generator,
        losses=run.losses,
        gains=run.gains,
        images_seen=run.step * config.batch_size,
        seconds=run.seconds,
    )


def _begin(generator: Generator, config: TrainConfig, scratch: Path, tracker: Tracker) -> _Run:
    unet = generator.unet.train().to(
        memory_format=torch.channels_last
    )  # a third faster on CPUs, tensor cores like it too
    optimizer = Optimizer(unet, config.optimizer, config.learning_rate)
    ema = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    run = _Run(
        generator=generator,
        config=config,
        optimizer=optimizer,
        ema=ema,
        texts=_TextMemo(generator.text_encoder),
    )
    meta = load_checkpoint(scratch, unet, ema, optimizer)
    if meta is not None:
        run.step, run.seconds, run.gains = meta["step"], meta["seconds"], meta["gains"]
        run.losses = [(int(step), float(loss)) for step, loss in meta["losses"]]
        if meta.get("run_id"):
            tracker.resume(meta["run_id"])
        print(f"resuming at step {run.step} of {config.steps}", flush=True)
    return run


def _save(run: _Run, scratch: Path, tracker: Tracker) -> None:
    meta = {
        "step": run.step,
        "seconds": run.seconds,
        "losses": run.losses,
        "gains": run.gains,
        "run_id": tracker.run_id,
    }
    save_checkpoint(scratch, run.generator.unet, run.ema, run.optimizer, meta)


def _step(run: _Run, batch: Batch, seed: int) -> float:
    generator, config = run.generator, run.config
    device, unet = generator.device, generator.unet
    draws = torch.Generator().manual_seed(seed * 1_000_003 + run.step)
    clean = generator.codec.encode(batch.images.to(device))
    timesteps = stratified_timesteps(len(clean), NUM_TRAIN_TIMESTEPS, draws).to(device)
    noise = torch.randn(clean.shape, generator=draws).to(device)
    noised = add_noise(generator.schedule, clean, noise, timesteps)
    text = run.texts(batch.captions, device)
    captions = run.texts(batch.neighbors.captions, device) if batch.neighbors.captions else None
    with autocast(config.precision, device):
        features = None if captions is None else generator.neighbor_features(batch.neighbors, captions)
        output = generator.predict(noised.sample, timesteps, text, features)
    loss = velocity_loss(output, noised.target).mean()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ModelError(
            f"training: expected a finite loss, got {value} at step {run.step}; "
            "lower the learning rate or use precision fp32"
        )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), _GRADIENT_NORM)
    run.optimizer.step(_rate(run.step + 1, config))
    _average(run)
    return value


def _rate(step: int, config: TrainConfig) -> float:
    """Learning rate of the step with number `step`, from 1."""
    warm = min(1.0, step / max(config.warmup_steps, 1))
    left = (config.steps - step + 1) / (_DECAY_SHARE * config.steps)
    return config.learning_rate * min(warm, left, 1.0)


@torch.no_grad()
def _average(run: _Run) -> None:
    step = run.step + 1
    decay = min(run.config.ema_decay, (1 + step) / (10 + step))
    state = run.generator.unet.state_dict()
    averages = [run.ema[name] for name in state]
    torch._foreach_lerp_(averages, [value.detach() for value in state.values()], 1 - decay)


def _use_average(run: _Run) -> None:
    run.generator.unet.load_state_dict(run.ema)
    run.generator.unet.eval()


def _validate(run: _Run, probe: GainProbe | None, tracker: Tracker, on_validate: Validate | None) -> None:
    averaged = copy.copy(run.generator)
    averaged.unet = copy.deepcopy(run.generator.unet).eval()
    averaged.unet.load_state_dict(run.ema)
    gains = {} if probe is None else neighbor_gain(averaged, probe)
    run.gains.append({"step": run.step, "seconds": run.seconds} | gains)
    tracker.log_metrics({f"validation/{name}": value for name, value in gains.items()}, run.step)
    recent = [value for _, value in run.losses[-100:]]
    print(
        f"step {run.step}: loss {sum(recent) / len(recent):.4f}; "
        + ", ".join(f"{name} {value:.4f}" for name, value in gains.items()),
        flush=True,
    )
    if on_validate is not None:
        on_validate(averaged, run.step)


def _out_of_time(run: _Run, config: TrainConfig) -> bool:
    return config.max_minutes > 0 and run.seconds > 60 * config.max_minutes
