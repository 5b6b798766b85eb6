"""What a callback may change between the steps of a drawing, and what it may ask for, by diffusers' names.

Shapes: B images, D/h/w the U-Net's input, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.guidance import Guidance

CALLBACK_TENSORS = ("latents", "pred_original_sample", "prompt_embeds", "negative_prompt_embeds")


@dataclass(kw_only=True)
class DrawingState:
    """What the next step of a drawing is made with; the loop reads it at each of them.

    Attributes:
        guidance: scales; which condition each step leaves out is decided before the first one.
        text: features of B prompts; None until they are encoded.
        null: of what guidance goes away from, B negative prompts or empty ones.
        interrupted: whether the steps that are left are not taken.
        changed: whether a callback has given other embeddings or scales.
    """

    guidance: Guidance
    text: TextFeatures | None = None
    null: TextFeatures | None = None
    interrupted: bool = False
    changed: bool = False

    def tensors(self, names: Sequence[str], latents: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """What a callback is told.

        Args:
            names: out of `CALLBACK_TENSORS`.
            latents: (B, D, h, w) x_t.
            clean: (B, D, h, w) the estimate of x_0.
        """
        known: dict[str, Any] = {"latents": latents, "pred_original_sample": clean}
        if self.text is not None and self.null is not None:
            known |= {"prompt_embeds": self.text.states, "negative_prompt_embeds": self.null.states}
        return {name: known[name] for name in names if name in known}

    def accept(self, told: dict[str, Tensor], returned: dict[str, Any], scale: float | None) -> None:
        """Take over what a callback gave back.

        Args:
            told: what it was given.
            returned: what it returned.
            scale: of guidance by the text, as it is now; None leaves it.
        """
        for name, attribute in (("prompt_embeds", "text"), ("negative_prompt_embeds", "null")):
            value, features = returned.get(name), getattr(self, attribute)
            if value is not None and features is not None and value is not told.get(name, features.states):
                setattr(self, attribute, replace(features, states=value))
                self.changed = True
        if scale is not None and scale != self.guidance.text_guidance_scale:
            self.guidance = replace(self.guidance, text_guidance_scale=scale)
            self.changed = True


def check_callback_tensors(names: Sequence[str] | None) -> None:
    """Refuse `names` that no callback is told of; None is what it is told where it asks for nothing.

    Raises:
        ValueError: one is none of `CALLBACK_TENSORS`.
    """
    if wrong := [name for name in names or () if name not in CALLBACK_TENSORS]:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs: expected some of {', '.join(CALLBACK_TENSORS)}, got {wrong}"
        )
