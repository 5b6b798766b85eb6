"""Training batches of clips: a target is a frame, its neighbors are earlier frames, as a rollout would show them.

    neighbors = the last frame, [the first], [others before], [a still drawing of the entity]

A rollout is shown what it drew itself. So frames that condition are spoiled now and then as drawn ones are: noise,
blur, a shift, other colours, or the model's own estimate of the frame out of noise. The target is not, and a model
learns to mend what it would otherwise hand on.

Every draw depends on (seed, step) alone, and the estimates on the weights as well, so that a resumed run sees the same.

Source: noise conditioning augmentation of cascades, Ho et al. 2022 (JMLR 23), here on earlier frames as in Valevski et
al., "Diffusion models are real-time game engines", 2024.

Shapes: B targets, K neighbors of each, N all neighbors, H/W image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import ClipsTrainConfig
from rag_diffusion.device import autocast
from rag_diffusion.errors import DataError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.sampling.frame_text import frame_caption, frame_prompt
from rag_diffusion.store.clips import Clip, Clips
from rag_diffusion.training.data import Batch
from rag_diffusion.training.objective import add_noise
from rag_diffusion.training.text_cache import TextCache
from rag_diffusion.training.upsample_data import as_batch

TARGETS_EACH = 1  # of a clip and step
_LEAST_FRAMES = 6  # of a clip at a stride
_FIRST_SHARE = 0.6  # how often the first frame is one of the earlier ones
_FIRST_CLEAN = 0.7  # how often it stays clean where others are spoiled: it is given in most rollouts
_SEEN_THROUGH = (300, 900)  # timesteps of the noise through which a model estimates a frame
_NOISE, _BLUR, _SHIFT, _GAIN, _BIAS = 0.15, 1.2, 1.0, 0.12, 0.08  # the most of each way to be spoiled

Still = tuple[Pixels, str]
Estimate = Callable[[Tensor, Sequence[str], torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One neighbor of a target: its pixels (H, W, 3), its caption, and how likely it is spoiled."""

    pixels: Pixels
    caption: str
    degrade: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """One frame to draw: its pixels (H, W, 3), the text that asks for it, and what it is shown."""

    pixels: Pixels
    prompt: str
    shown: tuple[Shown, ...]


class ClipBatches:
    """Batches by step.

    Args:
        clips: where the frames are.
        config: strides, shares, batch size.
        seed: of every draw.
        stills: entity -> still drawings of the train split, with captions; none is shown where there is none.
        estimate: images and captions to the model's own estimates, see `own_estimate`; None spoils without.

    Raises:
        DataError: there is no clip to train on.
    """

    def __init__(
        self,
        clips: Clips,
        config: ClipsTrainConfig,
        seed: int,
        stills: Mapping[str, Sequence[Still]] | None = None,
        estimate: Estimate | None = None,
    ) -> None:
        families: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips.of("train"):
            families[clip.family].append(clip)
        if not families:
            raise DataError("training: expected clips of the train split, got none; run the stage `clips`")
        self._clips, self._config, self._seed, self._stills = clips, config, seed, stills or {}
        self._estimate = estimate
        self._families = [families[name] for name in sorted(families)]

    @property
    def captions(self) -> list[str]:
        """Texts to encode beforehand: too many to do so, but for the empty one."""
        return [""]

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        """Batches of `rows` of the batch of `step`, each slice with the neighbors of its own targets."""
        rng = np.random.default_rng([self._seed, step])
        targets: list[Target] = []
        while len(targets) < self._config.batch_size:
            targets += self._of_a_clip(rng, min(TARGETS_EACH, self._config.batch_size - len(targets)))
        draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return [make_batch(targets[part], draws, self._estimate, self._config.own_estimates) for part in rows]

    def _of_a_clip(self, rng: np.random.Generator, count: int) -> list[Target]:
        family = self._families[rng.integers(len(self._families))]
        clip = family[rng.integers(len(family))]
        most = max(1, clip.count // _LEAST_FRAMES)
        stride = int(rng.choice([stride for stride in self._config.strides if stride <= most] or [1]))
        frames = self._clips.frames(clip)[rng.integers(stride) :: stride]
        mirrored = rng.random() < self._config.mirror
        if mirrored:
            frames = frames[:, :, ::-1]
        numbers = 2 + rng.permutation(len(frames) - 1)[:count]
        return [self._target(rng, clip, frames, int(number)) for number in numbers]

    def _target(self, rng: np.random.Generator, clip: Clip, frames: Pixels, number: int) -> Target:
        config = self._config
        draw, prompt = rng.random(), clip.caption if rng.random() < 0.5 else clip.title
        no_text = draw < config.drop_both + config.drop_text
        alone = draw < config.drop_both or config.drop_text <= draw - config.drop_both < (
            config.drop_text + config.drop_neighbors
        )
        shown: list[Shown] = []
        if not alone:
            degrade = config.degrade if rng.random() < 0.9 else 0.0
            for place in earlier_places(rng, number, config.max_earlier):
                clean = place == 1 and rng.random() < _FIRST_CLEAN
                caption = frame_caption(prompt, number, place)
                shown.append(Shown(pixels=frames[place - 1], caption=caption, degrade=0.0 if clean else degrade))
        stills = self._stills.get(clip.entity, ())
        if stills and not alone and rng.random() < config.knowledge:
            pixels, caption = stills[int(rng.integers(len(stills)))]
            shown.append(Shown(pixels=pixels, caption=caption))
        return Target(
            pixels=frames[number - 1],
            prompt="" if no_text else frame_prompt(prompt, number, len(frames)),
            shown=tuple(shown),
        )


def earlier_places(rng: np.random.Generator, number: int, most: int) -> list[int]:
    """Which earlier frames a frame is shown: the last one nearly always, the first one often, others now and then.

    Args:
        rng: of the draw.
        number: of the frame, from 1; at least 2.
        most: frames shown besides the last one.

    Returns:
        Distinct numbers below `number`, the last one first.
    """
    last = number - 1 if rng.random() < 0.9 else int(rng.integers(1, number))
    places, count = [last], int(rng.integers(0, most + 1))
    free = [place for place in range(1, number) if place != last]
    if count and free and free[0] == 1 and rng.random() < _FIRST_SHARE:
        places.append(free.pop(0))
        count -= 1
    return places + [int(place) for place in rng.permutation(free)[:count]]


def make_batch(
    targets: Sequence[Target], draws: torch.Generator, estimate: Estimate | None = None, share: float = 0.0
) -> Batch:
    """Targets as a batch, what they are shown spoiled by as much as it says.

    Args:
        targets: B.
        draws: of the ways to be spoiled.
        estimate: as `ClipBatches` takes it.
        share: of what is spoiled at all, how much is an estimate.
    """
    images = _images([target.pixels for target in targets])
    shown = [one for target in targets for one in target.shown]
    counts = [len(target.shown) for target in targets]
    neighbors = as_batch([], (), []) if not shown else None
    if shown:
        chosen = torch.tensor([one.degrade for one in shown])
        pixels, captions = _images([one.pixels for one in shown]), tuple(one.caption for one in shown)
        own = torch.rand(len(shown), generator=draws) < chosen * share * (estimate is not None)
        rows = own.nonzero()[:, 0].tolist()
        if estimate is not None and rows:
            pixels[rows] = estimate(pixels[rows], [captions[row] for row in rows], draws)
        pixels = spoil(pixels, torch.where(own, 0.3 * chosen, chosen), draws)
        neighbors = as_batch([pixels], captions, counts)
    if neighbors is None:
        empty = torch.zeros(len(targets), 0)
        side = images.shape[-1]
        neighbors = NeighborBatch(
            pair_ids=(), captions=(), images=torch.zeros(0, 3, side, side), rows=empty.long(), weights=empty
        )
    return Batch(images=images, captions=tuple(target.prompt for target in targets), neighbors=neighbors)


def own_estimate(generator: Generator, precision: str) -> Estimate:
    """What a generator takes images for when it sees them through noise, in one step and with no neighbor.

    Args:
        generator: in training, or not.
        precision: in which it computes.

    Returns:
        (N, 3, H, W) images in [-1, 1], N captions and draws to (N, 3, H, W) estimates in [-1, 1].
    """
    texts, schedule = TextCache(generator.text_encoder), generator.schedule

    @torch.no_grad()
    def estimate(images: Tensor, captions: Sequence[str], draws: torch.Generator) -> Tensor:
        device = generator.device
        timesteps = torch.randint(*_SEEN_THROUGH, (len(images),), generator=draws).to(device)
        clean = generator.codec.encode(images.to(device)).float()
        noise = torch.randn(clean.shape, generator=draws).to(device)
        noised = add_noise(schedule, clean, noise, timesteps)
        text = texts(captions, device)
        with autocast(precision, device):
            output = generator.predict(noised.sample, timesteps, text, None).float()
        found = to_clean(generator.prediction_type, noised.sample, output, noised.alpha_cumprod)
        return generator.codec.decode(found).clamp(-1, 1).cpu()

    return estimate


def spoil(images: Tensor, chance: Tensor, draws: torch.Generator) -> Tensor:
    """Images as a rollout may have drawn them: shifted by a part of a pixel, blurred, in other colours, noisy.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        chance: (N,) how likely each is spoiled; one that is not stays bit for bit.
        draws: of all that is drawn, on the CPU.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    count, side = len(images), images.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draws)

    chosen = uniform(count) < chance
    used = uniform(4, count) < 0.6  # which of the four ways
    shift = (2 * uniform(count, 2) - 1) * _SHIFT * used[0, :, None]
    theta = torch.eye(2, 3).repeat(count, 1, 1)
    theta[:, :, 2] = 2 * shift / side
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    spoiled = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    spoiled = _blurred(spoiled, 0.01 + _BLUR * uniform(count) * used[1])
    gain = 1 + _GAIN * (2 * uniform(count, 3, 1, 1) - 1) * used[2, :, None, None, None]
    bias = _BIAS * (2 * uniform(count, 3, 1, 1) - 1) * used[2, :, None, None, None]
    level = _NOISE * uniform(count, 1, 1, 1) * used[3, :, None, None, None]
    spoiled = spoiled * gain + bias + level * torch.randn(images.shape, generator=draws)
    return torch.where(chosen[:, None, None, None], spoiled.clamp(-1, 1), images)


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """(N, 3, H, W) blurred by a Gaussian of (N,) pixels each."""
    reach = 3
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-place.square() / (2 * sigma[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None, None]  # (3N, 1, 1, 7)
    flat = images.flatten(0, 1)[None]
    padded = torch.nn.functional.pad(flat, (reach,) * 4, mode="replicate")
    groups = flat.shape[1]
    across = torch.nn.functional.conv2d(padded, kernel, groups=groups)
    down = torch.nn.functional.conv2d(across, kernel.transpose(2, 3), groups=groups)
    blurred: Tensor = down[0].unflatten(0, images.shape[:2])
    return blurred


def _images(pixels: Sequence[Pixels]) -> Tensor:
    return pixels_to_images(torch.from_numpy(np.stack(pixels)))
