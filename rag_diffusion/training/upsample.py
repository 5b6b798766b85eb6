"""The training of a super-resolution stage: a v-prediction loss on what is missing in the upsampled image.

Noise, noise levels, timesteps and crops of a step follow from (seed, step) alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import UpsampleTrainConfig
from rag_diffusion.device import autocast
from rag_diffusion.models.codec import images_to_pixels, pixels_to_images
from rag_diffusion.models.detail_codec import upsample
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.neighbor_kv import NeighborKV
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.models.super_resolution import SuperResolution
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.tracking import Tracker
from rag_diffusion.training import run as state
from rag_diffusion.training.loop import TrainResult, drive
from rag_diffusion.training.objective import add_noise, stratified_timesteps, weighted_loss
from rag_diffusion.training.run import Run
from rag_diffusion.training.upsample_data import CropBatches, Crops

_LOG = logging.getLogger(__name__)

_PROBE_LEVEL_SHARE = 0.5  # of the highest noise level
_PROBE_TIMESTEPS = (999, 300)
_PROBE_PART = 8  # whole images at once


@dataclass(frozen=True, kw_only=True)
class UpsampleProbe:
    """N whole validation images: low (N, l, l, 3), high (N, H, H, 3), captions, and their neighbors, if any."""

    low: Pixels
    high: Pixels
    captions: tuple[str, ...]
    neighbors: NeighborBatch | None = None


def train_upsampler(
    stage: SuperResolution,
    batches: CropBatches,
    config: UpsampleTrainConfig,
    *,
    seed: int,
    scratch: Path,
    tracker: Tracker,
    probe: UpsampleProbe,
    accelerator: Accelerator,
) -> TrainResult:
    """Train, from the last checkpoint where there is one.

    Args:
        stage: trained in place; ends with the averaged weights.
        batches: crops by step.
        config: steps, rates, intervals.
        seed: of noise, noise levels and timesteps.
        scratch: folder of the checkpoint; its name must hold a fingerprint of everything but the length.
        tracker: gets loss, learning rate, errors on validation images and pictures of them.
        probe: those images.
        accelerator: of `open_accelerator`; one process.

    Returns:
        Losses, errors on validation images (as `gains`), seconds; the averaged weights are in `stage`.

    Raises:
        ModelError: the run has diverged, or the checkpoint belongs to another model.
    """
    run = state.begin(stage, config, accelerator, scratch, tracker, _UnetAlone(stage.unet))

    def compute() -> float:
        loss = _loss(stage, run, batches[run.step], seed)
        accelerator.backward(loss * run.scale.value)
        return float(loss.detach())

    def validate() -> None:
        if run.step % config.validate_every and run.step != config.steps:
            return
        _validate(run, probe, tracker)

    drive(run, tracker, compute=compute, validate=validate)
    if not run.gains or run.gains[-1]["step"] != run.step:
        _validate(run, probe, tracker)
    state.end(run)
    return TrainResult(
        generator=stage,
        losses=run.losses,
        gains=run.gains,
        images_seen=run.step * config.batch_size,
        seconds=run.seconds,
    )


class _UnetAlone(nn.Module):
    """What `training.run` wraps."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet


def _loss(stage: SuperResolution, run: Run, crops: Crops, seed: int) -> Tensor:
    device = stage.device
    draws = torch.Generator(device).manual_seed(seed * 1_000_003 + run.step)
    count, side = len(crops.low), crops.low.shape[-1]
    factor = stage.image_size // stage.low_size
    levels = torch.randint(stage.max_noise_level + 1, (count,), generator=draws, device=device)
    noise = torch.randn(crops.low.shape, generator=draws, device=device)
    edge = factor * crops.margin
    upsampled = stage.noised_up(crops.low.to(device), levels, noise, factor * side)
    bound = stage.beside_upsampled(upsampled[..., edge : factor * side - edge, edge : factor * side - edge], levels)
    clean = bound.codec.encode(crops.high.to(device))
    timesteps = stratified_timesteps(count, stage.schedule.config.num_train_timesteps, draws)
    noised = add_noise(stage.schedule, clean, torch.randn(clean.shape, generator=draws, device=device), timesteps)
    text = run.texts(crops.captions, device)
    captions = None if crops.neighbors is None else run.texts(crops.neighbors.captions, device)
    with autocast(run.config.precision, device):
        features = None if captions is None else stage.neighbor_features(cast(NeighborBatch, crops.neighbors), captions)
        prediction = bound.predict(noised.sample, noised.timesteps, text, features)
    return weighted_loss(stage.prediction_type, prediction, noised).mean()


def _validate(run: Run, probe: UpsampleProbe, tracker: Tracker) -> None:
    averaged = state.averaged(run)
    text = run.texts(probe.captions, run.generator.device)
    errors, picture = upsampling_errors(averaged, probe, text, run.config.precision)
    tracker.log_metrics({f"validation/{name}": value for name, value in errors.items()}, run.step)
    tracker.log_image(Image.fromarray(picture), "validation", run.step)
    run.gains.append({"step": run.step, "seconds": run.seconds} | errors)
    _LOG.info("step %d: %s", run.step, ", ".join(f"{name} {value:.5f}" for name, value in errors.items()))


@torch.inference_mode()
def upsampling_errors(
    stage: Generator, probe: UpsampleProbe, text: TextFeatures, precision: str = "fp32"
) -> tuple[dict[str, float], Pixels]:
    """Mean squared error in [-1, 1] of x_0 estimated in one call from timestep t, low-resolution images noised to s.

    With neighbors both are told: `error_s<s>_t<t>` with them, and `..._none` without.

    Args:
        stage: the super-resolution stage.
        probe: N whole images.
        text: of their captions.
        precision: of autocast.

    Returns:
        `bicubic`, and `error_s<s>_t<t>`; a grid of pictures (bicubic, estimated, real), (., ., 3).
    """
    assert isinstance(stage, SuperResolution)
    device, size = stage.device, stage.image_size
    sums: dict[str, float] = {}
    pictures: Sequence[Pixels] = ()
    maps = None
    if probe.neighbors is not None:
        captions = stage.text_encoder(probe.neighbors.captions).to(device)
        maps = stage.neighbor_maps(probe.neighbors.images, captions)
    for start in range(0, len(probe.low), _PROBE_PART):
        part = slice(start, start + _PROBE_PART)
        low, high = (
            pixels_to_images(torch.from_numpy(np.array(pixels[part]))).to(device) for pixels in (probe.low, probe.high)
        )
        seen: dict[str, Mapping[str, NeighborKV] | None] = {"": None}
        if probe.neighbors is not None and maps is not None:
            own = replace(probe.neighbors, rows=probe.neighbors.rows[part], weights=probe.neighbors.weights[part])
            seen = {"": stage.project(maps, own), "_none": None}
        plain = upsample(low, size).clamp(-1, 1)
        sums["bicubic"] = sums.get("bicubic", 0.0) + float(F.mse_loss(plain, high)) * len(low)
        for level in (0, round(stage.max_noise_level * _PROBE_LEVEL_SHARE)):
            draws = torch.Generator().manual_seed(0)
            levels = torch.full((len(low),), level)
            bound = stage.beside(low, levels, torch.randn(low.shape, generator=draws).to(device))
            clean = bound.codec.encode(high)
            noise = torch.randn(clean.shape, generator=draws).to(device)
            for timestep, (mark, features) in product(_PROBE_TIMESTEPS, seen.items()):
                noised = add_noise(stage.schedule, clean, noise, torch.full((len(low),), timestep, device=device))
                with autocast(precision, device):
                    output = bound.predict(noised.sample, noised.timesteps, text[part], features)
                signal = noised.alpha_cumprod.view(-1, 1, 1, 1).float()
                estimate = to_clean(stage.prediction_type, noised.sample, output, signal)
                drawn = bound.codec.decode(estimate).clamp(-1, 1)
                name = f"error_s{level}_t{timestep}{mark}"
                sums[name] = sums.get(name, 0.0) + float(F.mse_loss(drawn, high)) * len(low)
                if not pictures:
                    pictures = [images_to_pixels(images).cpu().numpy() for images in (plain, drawn, high)]
    grid = torch.cat([torch.cat([torch.from_numpy(picture) for picture in row], 1) for row in pictures], 0).numpy()
    return {name: value / len(probe.low) for name, value in sums.items()}, grid
