"""Classifier-free guidance over two conditions, the text c_p and the neighbors c_n (patent [0072], claims 11-12).

    eps_p = w_p * eps(x_t, c_p, c_n) - (w_p - 1) * eps(x_t, null, c_n)        text-enhanced
    eps_n = w_n * eps(x_t, c_p, c_n) - (w_n - 1) * eps(x_t, c_p, null)        neighbor-enhanced

Interleaved guidance uses one of the two at each step: eps_p with probability eta (here `interleave_ratio`), drawn by
a coin, or by a deterministic alternation of the same ratio. Joint guidance gives each condition its scale at every
step, from three predictions, as InstructPix2Pix has it (Brooks, Holynski, Efros 2023, equation 3):

    eps_j = eps(x_t, null, null) + w_n * (eps(x_t, null, c_n) - eps(x_t, null, null))
                                 + w_p * (eps(x_t, c_p, c_n) - eps(x_t, null, c_n))

With w_p = w_n the middle one cancels, and two are computed.

Negative neighbors m are guided away from, as from a negative prompt: the prediction that is left behind sees them, the
one that is gone to never does. With them, the second predictions are

    eps_p:  eps(x_t, null, c_n and m)  for eps(x_t, null, c_n)       so eps(x_t, null, m) where there are no others
    eps_n:  eps(x_t, c_p, m)           for eps(x_t, c_p, null)
    eps_j:  eps(x_t, null, m)          for eps(x_t, null, null)

Where nothing is guided (mode `none`, or scales of 1) they would have no effect, and are refused.

The formulas hold for eps, v and x_0 alike, since all
three are linear in each other at a given x_t. Of what guidance changes, the part along x_0 may be left out: see
`projection`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from rag_diffusion.config import SampleConfig

MODES = ("none", "text", "neighbor", "alternate", "interleaved", "joint")


class GuidanceStep(Enum):
    """Which condition a guided step leaves out in its further predictions."""

    PLAIN = "plain"  # no second prediction
    TEXT = "text"  # eps_p: leaves the text out
    NEIGHBOR = "neighbor"  # eps_n: leaves the neighbors out
    JOINT = "joint"  # eps_j: the text is left out, then both


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How predictions are guided; by default as params.yaml was tuned on validation prompts.

    Attributes:
        mode: `none`, `text`, `neighbor`, `alternate`, `interleaved` (a coin for each image) or `joint`.
        text_guidance_scale: w_p; 1 is no guidance.
        neighbor_guidance_scale: w_n.
        interleave_ratio: share of text-enhanced steps, eta of the patent.
        parallel_share: how much stays of the change along x_0, eta of `projection`; 1 is the patent's guidance.

    Raises:
        ValueError: there is no such mode, a scale is not finite, or a share is outside of [0, 1].

    Examples:
        >>> from rag_diffusion import Guidance
        >>> guidance = Guidance(mode="alternate", text_guidance_scale=3, neighbor_guidance_scale=6)
        >>> [step.value for (step,) in guidance.plan(num_steps=4, seeds=[0])]
        ['neighbor', 'text', 'neighbor', 'text']
    """

    mode: str = "alternate"
    text_guidance_scale: float = 3.0
    neighbor_guidance_scale: float = 6.0
    interleave_ratio: float = 0.5
    parallel_share: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"guidance mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        for name in ("interleave_ratio", "parallel_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if not (math.isfinite(self.text_guidance_scale) and math.isfinite(self.neighbor_guidance_scale)):
            raise ValueError(
                f"guidance scales: expected finite numbers, got {self.text_guidance_scale} and "
                f"{self.neighbor_guidance_scale}"
            )

    @classmethod
    def from_config(cls, config: SampleConfig) -> Guidance:
        """Read the guidance part of `config`, `sample` in params.yaml."""
        return cls(
            mode=config.guidance,
            text_guidance_scale=config.text_guidance_scale,
            neighbor_guidance_scale=config.neighbor_guidance_scale,
            interleave_ratio=config.interleave_ratio,
            parallel_share=config.parallel_share,
        )

    def plan(self, num_steps: int, seeds: list[int]) -> list[list[GuidanceStep]]:
        """Which step each image takes when.

        Args:
            num_steps: T denoising steps.
            seeds: one for each of B images; the coin has a generator of its own, one per image.

        Returns:
            T lists of B steps.
        """
        fixed = {
            "none": GuidanceStep.PLAIN,
            "text": GuidanceStep.TEXT,
            "neighbor": GuidanceStep.NEIGHBOR,
            "joint": GuidanceStep.JOINT,
        }
        if self.mode in fixed:
            return [[fixed[self.mode]] * len(seeds) for _ in range(num_steps)]
        if self.mode == "alternate":
            return [[self._alternation(step)] * len(seeds) for step in range(num_steps)]
        coins = [
            torch.rand(num_steps, generator=torch.Generator().manual_seed((seed ^ 0x5EED) % 2**63)) for seed in seeds
        ]
        return [
            [GuidanceStep.TEXT if coin[step] < self.interleave_ratio else GuidanceStep.NEIGHBOR for coin in coins]
            for step in range(num_steps)
        ]

    def scale(self, step: GuidanceStep) -> float:
        """w of a `step` of two predictions; 1 of a plain one."""
        other = {GuidanceStep.PLAIN: 1.0, GuidanceStep.NEIGHBOR: self.neighbor_guidance_scale}
        return other.get(step, self.text_guidance_scale)

    @property
    def guides(self) -> bool:
        """Whether a second prediction changes anything."""
        return self.mode != "none" and (self.text_guidance_scale, self.neighbor_guidance_scale) != (1, 1)

    @property
    def one_scale(self) -> bool:
        """Whether both conditions have the same scale."""
        return self.text_guidance_scale == self.neighbor_guidance_scale

    def _alternation(self, step: int) -> GuidanceStep:
        """Text-enhanced whenever the running count of such steps falls behind the ratio."""
        before, after = (
            int(step * self.interleave_ratio + 1e-9),
            int((step + 1) * self.interleave_ratio + 1e-9),
        )
        return GuidanceStep.TEXT if after > before else GuidanceStep.NEIGHBOR


def combine(full: Tensor, reduced: Tensor, scale: float) -> Tensor:
    """w * full - (w - 1) * reduced.

    Args:
        full: (B, C, H, W) prediction under both conditions.
        reduced: (B, C, H, W) prediction with a condition left out.
        scale: w.

    Returns:
        (B, C, H, W) the guided prediction.
    """
    return scale * full - (scale - 1) * reduced
