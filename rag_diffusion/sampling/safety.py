"""What a picture goes through before it is shown: a checker that may withhold it, and an invisible watermark.

A withheld picture is black; its provenance says that it was withheld, and by what. Estimates that callbacks get on the
way are not looked at.

Shapes: B images, H/W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ModelError
from rag_diffusion.sampling.output import OutputType, RetrievalPipelineOutput
from rag_diffusion.sampling.watermark import embed

SafetyChecker = Callable[[Pixels], Sequence[bool]]  # (B, H, W, 3) uint8 -> which of B are withheld
WITHHELD, WATERMARK = "withheld", "watermark"  # in the settings of a provenance
_TOLD = "the picture was withheld: the safety checker {name} takes it for one that must not be shown"


class PublishedChecker:
    """The safety checker of Stable Diffusion: how near a picture is to concepts that its makers chose, in CLIP's space.

    Args:
        name: a folder or a hub name, of the checker as `CompVis/stable-diffusion-safety-checker`, or a folder of a
            pipeline that has one.
        device: where it computes.

    Raises:
        ModelError: there is none, or it cannot be reached.
    """

    def __init__(self, name: str | Path, device: torch.device | str = "cpu") -> None:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        self.name, self._device = str(name), torch.device(device)
        parts = ("safety_checker", "feature_extractor") if (Path(name) / "safety_checker").is_dir() else ("", "")
        try:
            model = StableDiffusionSafetyChecker.from_pretrained(str(name), subfolder=parts[0])
            self._prepare = CLIPImageProcessor.from_pretrained(str(name), subfolder=parts[1])
        except (OSError, ValueError) as error:
            raise ModelError(
                f"safety checker: expected {str(name)!r} as a folder or a hub name that can be reached, got: "
                f"{str(error).splitlines()[0]}; download it and give its path"
            ) from None
        self._model = model.eval().requires_grad_(False).to(self._device)

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> list[bool]:
        """Which pictures are withheld: `pixels` (B, H, W, 3) uint8 -> B."""
        inputs = self._prepare([Image.fromarray(one) for one in pixels], return_tensors="pt").pixel_values
        _, withheld = self._model(clip_input=inputs.to(self._device), images=[one.copy() for one in pixels])
        return [bool(one) for one in withheld]


def check_can_look(output_type: OutputType, safety_checker: SafetyChecker | None, watermark: str) -> None:
    """Refuse latents where pictures are to be looked at or marked.

    Args:
        output_type: of the call.
        safety_checker: of the pipeline.
        watermark: of the pipeline.

    Raises:
        ValueError: the output is latents.
    """
    if output_type == "latent" and (safety_checker is not None or watermark):
        raise ValueError("output_type: expected pictures where there is a safety checker or a watermark, got 'latent'")


def finished(
    drawn: RetrievalPipelineOutput, safety_checker: SafetyChecker | None, watermark: str
) -> RetrievalPipelineOutput:
    """Pictures as they may be shown.

    Args:
        drawn: B images, not latents where anything is to be done.
        safety_checker: says which are withheld; None withholds none.
        watermark: text of the mark that each carries; empty marks none.

    Returns:
        The same of the same kind; marked ones are of 256 levels.

    Raises:
        ValueError: the checker gives another number of answers.
    """
    if safety_checker is None and not watermark:
        return drawn
    pixels = _pixels(drawn.images)
    withheld = [False] * len(pixels) if safety_checker is None else list(map(bool, safety_checker(pixels)))
    if len(withheld) != len(pixels):
        raise ValueError(f"safety_checker: expected an answer for each of {len(pixels)} images, got {len(withheld)}")
    name = getattr(safety_checker, "name", "") or getattr(safety_checker, "__name__", type(safety_checker).__name__)
    images, provenance = [], []
    for one, hidden, origin in zip(pixels, withheld, drawn.provenance, strict=True):
        told: dict[str, Any] = {}
        if hidden:
            trouble = [*origin.settings.get("trouble", ()), _TOLD.format(name=name)]
            told, one = {WITHHELD: name, "trouble": trouble}, np.zeros_like(one)
        if watermark:
            told[WATERMARK], one = watermark, one if hidden else embed(one, watermark)
        images.append(one)
        provenance.append(replace(origin, settings=origin.settings | told))
    changed = withheld if not watermark else [True] * len(pixels)
    return RetrievalPipelineOutput(
        images=_put(drawn.images, images, changed), provenance=provenance, heat_maps=drawn.heat_maps
    )


def _pixels(images: Any) -> Pixels:
    """(B, H, W, 3) uint8 of what `RetrievalPipelineOutput.images` may hold."""
    if isinstance(images, torch.Tensor):
        images = images.permute(0, 2, 3, 1).cpu().numpy()
    if isinstance(images, np.ndarray):
        return np.round(images * 255).astype(np.uint8)
    return np.stack([np.asarray(image) for image in images])


def _put(images: Any, pixels: Sequence[Pixels], changed: Sequence[bool]) -> Any:
    """`images`, of which those that changed are `pixels`, in the form that they had."""
    if isinstance(images, list):
        return [Image.fromarray(new) if put else old for old, new, put in zip(images, pixels, changed, strict=True)]
    found: Any = images.clone() if isinstance(images, torch.Tensor) else images.copy()
    for row, put in enumerate(changed):
        if put:
            unit = pixels[row].astype(np.float32) / 255
            found[row] = torch.from_numpy(unit).permute(2, 0, 1) if isinstance(found, torch.Tensor) else unit
    return found
