"""Arguments of diffusers' pipelines by the names that they have there: what each means here, why some cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rag_diffusion.sampling.guidance import Guidance

STRENGTH = {"image": 0.8, "mask_image": 1.0}  # where none is given, as in diffusers

REFUSED: Mapping[str, str] = {
    "guidance_rescale": "guidance here is projected instead; use Guidance(parallel_share=...)",
    "denoising_end": "a drawing is finished by the network that began it; stages= adds super-resolution stages",
    "denoising_start": "a drawing is begun by the network that finishes it; image= and strength= begin with a picture",
    "callback": "diffusers has replaced it; use callback_on_step_end",
    "callback_steps": "diffusers has replaced it; use callback_on_step_end",
    "masked_image_latents": "networks with nine input channels are not read; use image= and mask_image=",
    "padding_mask_crop": "a part alone is not enlarged; crop the picture before and paste it after",
    "prompt_2": "both text encoders read the same prompt; give prompt_embeds= and pooled_prompt_embeds= of both",
    "prompt_3": "no base that is read has a third text encoder",
    "negative_prompt_2": "both text encoders read the same prompt; give negative_prompt_embeds= of both",
    "gligen_phrases": "no base that is read was trained with boxes; neighbors have a mask for their place",
    "gligen_boxes": "no base that is read was trained with boxes; neighbors have a mask for their place",
    "guess_mode": "the controlled network always reads the prompt",
    "style_fidelity": "give the picture as a style neighbor, by style_images=",
}


def refuse(given: Mapping[str, Any]) -> None:
    """Refuse arguments that the pipeline does not have.

    Args:
        given: by name.

    Raises:
        TypeError: there are any; those that diffusers knows with the reason.
    """
    for name in given:
        reason = REFUSED.get(name, "the pipeline has no such argument; see help(RetrievalPipeline.__call__)")
        raise TypeError(f"{name}: {reason}")


def one_device(device_map: Any, device: torch.device | str) -> torch.device | str:
    """Where all parts are to live.

    Args:
        device_map: of diffusers; None is `device`.
        device: where else.

    Raises:
        ValueError: several devices are asked for.
    """
    if device_map is None:
        return device
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map: expected one device, got {device_map!r}: picture and neighbors go through one encoder, whose "
            "parts are not spread; enable_model_cpu_offload() or enable_sequential_cpu_offload() saves memory"
        ) from None


def guidance_of(guidance: Guidance | None, scale: float | None) -> Guidance:
    """Guidance, from what a caller gave.

    Args:
        guidance: how predictions are guided; None is the default.
        scale: `guidance_scale` of diffusers, the scale of the text, w_p. 1 or less turns guidance off, as there.

    Raises:
        ValueError: both are given.
    """
    if scale is None:
        return guidance or Guidance()
    if guidance is not None:
        raise ValueError(
            "guidance_scale: expected it or guidance, got both; guidance_scale=w is Guidance(text_guidance_scale=w)"
        )
    return Guidance(mode="none", text_guidance_scale=scale) if scale <= 1 else Guidance(text_guidance_scale=scale)


def negative_texts(given: str | Sequence[str] | None, prompts: int, times: int) -> list[str] | None:
    """Negative prompts of B images.

    Args:
        given: one for all prompts, or one for each of them; None goes away from the empty text.
        prompts: how many there are.
        times: images a prompt.

    Raises:
        ValueError: they are none, or of another number.
    """
    if given is None:
        return None
    texts = [given] * prompts if isinstance(given, str) else list(given)
    if len(texts) != prompts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"negative_prompt: expected a text, or one for each of {prompts} prompts, got {given!r}")
    return [text for text in texts for _ in range(times)]


def strength_of(given: float | None, image: object, mask: object) -> float:
    """How far a picture is noised.

    Args:
        given: by the caller; None is as in diffusers: 0.8, and 1 with a mask.
        image: to begin with.
        mask: of the part that is drawn anew.

    Raises:
        ValueError: there is a mask without a picture.
    """
    if mask is not None and image is None:
        raise ValueError("mask_image: expected image= beside it, the picture of which a part is drawn anew")
    return given if given is not None else STRENGTH["image" if mask is None else "mask_image"]


def begin_strength_of(given: float | None, usual: float, image: object) -> float:
    """How far the first neighbor is noised that a picture begins with; 1 begins with noise.

    Args:
        given: by the caller; None is `usual`, and 1 beside a picture to begin with.
        usual: of the pipeline.
        image: to begin with.

    Raises:
        ValueError: it is outside of (0, 1], or there are two pictures to begin with.
    """
    if given is None:
        return usual if image is None else 1.0
    if not 0 < given <= 1:
        raise ValueError(f"begin_strength: expected a share of the steps in (0, 1], where 1 is noise, got {given}")
    if given < 1 and image is not None:
        raise ValueError(f"begin_strength: expected none beside image=, which is begun with already, got {given}")
    return given


def num_steps_of(count: int, timesteps: Sequence[int] | None, sigmas: Sequence[float] | None) -> int:
    """How many steps there are.

    Args:
        count: `num_inference_steps`, where neither of the others is given.
        timesteps: given by hand.
        sigmas: given by hand.
    """
    chosen = timesteps if timesteps is not None else sigmas
    return count if chosen is None else len(chosen)
