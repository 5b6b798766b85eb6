"""ControlNets beside neighbors: what they add to the maps of the encoder, before neighbors are attended to.

Shapes: B batch, C/h/w the U-Net's input, L text tokens, H/W control picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rag_diffusion.models.text_encoder import TextFeatures


@dataclass(frozen=True, kw_only=True)
class Control:
    """A ControlNet of diffusers, or several, at work on one drawing.

    Attributes:
        network: `ControlNetModel` or `MultiControlNetModel`.
        scale: how much its residuals count, of each where there are several.
        start, end: shares of the steps between which it is at work.
    """

    network: Any
    scale: float | Sequence[float] = 1.0
    start: float = 0.0
    end: float = 1.0

    def at_work(self, step: int, num_steps: int) -> bool:
        """Whether it is at a `step`, by its number from 0, of `num_steps`."""
        return self.start <= step / num_steps and (step + 1) / num_steps <= self.end

    def residuals(self, sample: Tensor, timestep: Tensor, text: TextFeatures) -> dict[str, Any]:
        """What is added to skip maps and bottleneck, as keywords of the U-Net.

        Args:
            sample: (B, C, h, w) what the U-Net sees.
            timestep: ().
            text: of B prompts, with their control pictures.
        """
        several = hasattr(self.network, "nets")
        down, mid = self.network(
            sample,
            timestep,
            encoder_hidden_states=text.states,
            controlnet_cond=list(text.control) if several else text.control[0],
            conditioning_scale=list(self._scales(len(text.control))) if several else self.scale,
            return_dict=False,
            **({"added_cond_kwargs": dict(text.added)} if text.added else {}),
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def _scales(self, count: int) -> Sequence[float]:
        return self.scale if isinstance(self.scale, Sequence) else [self.scale] * count
