"""What one call draws, brought to one form: everything that decides B images but the network itself.

Shapes: B images, T steps, D/h/w the U-Net's input, H/W image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.device import autocast_dtype
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.denoise import make_scheduler
from rag_diffusion.sampling.embeddings import Embeddings, ImageConditions
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import OutputType
from rag_diffusion.sampling.provenance import seen_digest, to_text
from rag_diffusion.sampling.schedule import Phase
from rag_diffusion.sampling.steering import DrawingState
from rag_diffusion.sampling.style_palettes import as_texts
from rag_diffusion.sampling.threshold import Thresholding
from rag_diffusion.types import DataSetVersion

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # what was computed in, and how it is asked for


class Neighbors(Protocol):
    """Where the neighbors of B images come from."""

    @property
    def corpus_hashes(self) -> list[str]:
        """Of what each image's prompt was searched in; empty where none was."""
        ...

    @property
    def data_sets(self) -> list[tuple[DataSetVersion, ...]]:
        """The data sets that each image's prompt was searched in; none where it was not."""
        ...

    @property
    def trouble(self) -> list[tuple[str, ...]]:
        """What went wrong for each image, in words."""
        ...

    def first(self) -> list[list[Neighbor]]:
        """At the first step."""
        ...

    def again(self, pixels: Pixels) -> list[list[Neighbor]]:
        """Of B images, `pixels` (B, H, W, 3) uint8 as they look so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """B images.

    Attributes:
        prompts: B texts.
        source: of their neighbors.
        phases: of T, which neighbors are seen from which step on.
        seeds: B, of noise and coin.
        noise: type of device where noise is drawn.
        latents: (B, D, h, w) in place of that noise.
        pictures: (B, H, W, 3) uint8 to begin with; None begins with noise.
        strength: how far these are noised.
        begin_strength: below 1, how far the first content neighbor of each image is noised, to begin with.
        masks: (B, H, W) uint8, 255 where these are drawn anew; None draws all.
        negative_prompts: B texts that guidance goes away from; None goes away from empty ones.
        embeddings: in the place of encoded texts.
        images: image prompts and control pictures.
        eta: of `denoise`.
        timesteps, sigmas: of `denoise.set_timesteps`.
        thresholding: of each image.
        palettes: (P, 3) sRGB of each image that is drawn in given colours, else None; empty: of none.
        state: what a callback may change; None is a new one with `guidance`.
        on_step: gets the number of a finished step, its timestep, x_t and the estimate of x_0, and returns the x_t that
            goes on.
        keep: whether the provenance keeps the pixels of neighbors and of `pictures`.
    """

    prompts: Sequence[str]
    source: Neighbors
    phases: Callable[[int], list[Phase]]
    guidance: Guidance
    num_inference_steps: int
    seeds: list[int]
    noise: str = "cpu"
    latents: Tensor | None = None
    pictures: Pixels | None = None
    strength: float = 1.0
    begin_strength: float = 1.0
    masks: Pixels | None = None
    negative_prompts: list[str] | None = None
    embeddings: Embeddings = field(default_factory=Embeddings)
    images: ImageConditions = field(default_factory=ImageConditions)
    eta: float = 0.0
    timesteps: Sequence[int] | None = None
    sigmas: Sequence[float] | None = None
    state: DrawingState | None = None
    thresholding: Sequence[Thresholding]
    palettes: Sequence[Pixels | None] = ()
    output_type: OutputType = "pil"
    on_step: Callable[[int, Tensor, Tensor, Tensor], Tensor] | None = None
    keep: bool = False

    def settings(self, generator: Generator, scheduler: Any, precision: str, row: int) -> dict[str, Any]:
        """What decides the pixels of an image, for its provenance.

        Args:
            generator: the network.
            scheduler: of diffusers, as it is set.
            precision: of autocast.
            row: number of the image.

        Returns:
            JSON-able values by name.
        """
        settings: dict[str, Any] = {
            "scheduler": type(scheduler).__name__,
            "scheduler_config": unusual(scheduler, generator),
            "num_inference_steps": self.num_inference_steps,
            "guidance": asdict(self.guidance),
            "thresholding": self.thresholding[row],
            "image_size": generator.image_size,
            "precision": computed_in(precision, generator.device),
            "weights": str(generator.backbone.dtype).removeprefix("torch."),
            "device": generator.device.type,
            "noise": self.noise,
        }
        if generator.size != (generator.image_size, generator.image_size):
            settings["size"] = list(generator.size)
        settings |= {name: value for name, value in generator.told.items() if name != "cross_attention_kwargs"}
        if (scale := generator.told.get("cross_attention_kwargs", {}).get("scale")) is not None:
            settings["lora_scale"] = scale
        if self.palettes and (palette := self.palettes[row]) is not None:
            settings["colours"] = as_texts(palette)
        if self.pictures is not None and self.begin_strength < 1:  # they are the first neighbors
            settings["begin_strength"] = self.begin_strength
        elif self.pictures is not None:
            begin = self.pictures[row]
            settings |= {"strength": self.strength, "begin": seen_digest(begin, "")}
            settings |= {"begin_image": to_text(begin)} if self.keep else {}
        if self.masks is not None:
            settings["mask"] = to_text(self.masks[row])
        if self.negative_prompts is not None:
            settings["negative_prompt"] = self.negative_prompts[row]
        settings |= {
            name: list(value) for name in ("timesteps", "sigmas") if (value := getattr(self, name)) is not None
        }
        settings |= self.embeddings.facts(row)
        if self.images != ImageConditions():
            settings["image_conditions"] = True
        settings |= {"eta": self.eta} if self.eta else {}
        if self.latents is not None:
            settings["latents"] = latents_digest(self.latents[row])
        if trouble := self.source.trouble[row]:
            settings["trouble"] = list(trouble)
        return settings


def computed_in(precision: str, device: torch.device) -> str:
    """The type that networks compute in at a `precision` on a `device`, by its name in torch."""
    return str(autocast_dtype(precision, device) or torch.float32).removeprefix("torch.")


def latents_digest(latents: Tensor) -> str:
    """Hash of initial noise `latents` (D, h, w) that a caller gave."""
    return hashlib.sha256(latents.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def unusual(scheduler: Any, generator: Generator) -> dict[str, Any]:
    """What the configuration of `scheduler` has otherwise than `make_scheduler` makes it for `generator`."""
    usual = _plain(make_scheduler(type(scheduler).__name__, generator.schedule).config)
    return {key: value for key, value in _plain(scheduler.config).items() if usual.get(key) != value}


def _plain(config: Any) -> dict[str, Any]:
    public = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(public, default=lambda value: np.asarray(value).tolist()))
    return plain
