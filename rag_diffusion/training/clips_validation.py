"""Validation losses of the next frame: with no frame shown, the last one, the last and earlier ones, and spoiled ones.

Always on the same clips, noise and timesteps; `gain_t<timestep>` = none - earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from rag_diffusion.config import ClipsTrainConfig
from rag_diffusion.models.generator import Generator
from rag_diffusion.sampling.frame_text import frame_caption, frame_prompt
from rag_diffusion.store.clips import Clips
from rag_diffusion.tracking import Tracker
from rag_diffusion.training.clips_data import Shown, Target, make_batch
from rag_diffusion.training.data import Batch
from rag_diffusion.training.objective import add_noise, weighted_loss

TIMESTEPS = (300, 700, 900)
KINDS = ("none", "last", "earlier", "spoiled")
_LOG = logging.getLogger(__name__)
_TARGETS = 24
_STRIDE = 2


def make_clip_probe(clips: Clips, config: ClipsTrainConfig, seed: int) -> dict[str, Batch]:
    """Frames of validation clips by what they are shown, one of `KINDS`; empty where there is no such clip.

    Args:
        clips: where they are.
        config: how many earlier frames.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    targets: dict[str, list[Target]] = {kind: [] for kind in KINDS}
    several = clips.of("validation")
    if not several:
        return {}
    for number in rng.integers(len(several), size=_TARGETS):
        clip = several[number]
        frames = clips.frames(clip)[::_STRIDE]
        place = int(rng.integers(min(4, len(frames)), len(frames) + 1))
        shown = [before for before in (place - 1, 1, place - 2, place - 3)[: 1 + config.max_earlier] if before >= 1]
        earlier = tuple(
            Shown(pixels=frames[before - 1], caption=frame_caption(clip.title, place, before))
            for before in dict.fromkeys(shown)
        )
        spoiled = tuple(replace(one, degrade=1.0) for one in earlier)
        for kind, seen in (("none", ()), ("last", earlier[:1]), ("earlier", earlier), ("spoiled", spoiled)):
            prompt = frame_prompt(clip.title, place, len(frames))
            targets[kind].append(Target(pixels=frames[place - 1], prompt=prompt, shown=seen))
    return {kind: make_batch(some, torch.Generator().manual_seed(seed)) for kind, some in targets.items()}


@torch.inference_mode()
def clip_losses(
    generator: Generator, probe: Mapping[str, Batch], step: int = 0, tracker: Tracker | None = None
) -> dict[str, float]:
    """`loss_<kind>_t<timestep>` and `gain_t<timestep>`.

    Args:
        generator: judged.
        probe: of `make_clip_probe`.
        step: of the training, for the tracker.
        tracker: gets the losses; None gets none.
    """
    losses: dict[str, float] = {}
    for kind, batch in probe.items():
        clean = generator.codec.encode(batch.images.to(generator.device))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean.device)
        text = generator.text_encoder(list(batch.captions)).to(generator.device)
        features = None
        if batch.neighbors.captions:
            captions = generator.text_encoder(list(batch.neighbors.captions)).to(generator.device)
            features = generator.neighbor_features(batch.neighbors, captions)
        for timestep in TIMESTEPS:
            noised = add_noise(generator.schedule, clean, noise, torch.full((len(clean),), timestep).to(clean.device))
            output = generator.predict(noised.sample, noised.timesteps, text, features)
            loss = weighted_loss(generator.prediction_type, output, noised).mean()
            losses[f"loss_{kind}_t{timestep}"] = float(loss)
    if losses:
        losses |= {f"gain_t{t}": losses[f"loss_none_t{t}"] - losses[f"loss_earlier_t{t}"] for t in TIMESTEPS}
        _LOG.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    if tracker is not None:
        tracker.log_metrics({f"validation/{name}": value for name, value in losses.items()}, step)
    return losses
