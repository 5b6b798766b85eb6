"""What the pipeline returns, and the error it raises where memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ModelError
from rag_diffusion.models.codec import Codec, images_to_pixels
from rag_diffusion.sampling.provenance import Provenance, save_picture

OutputType = Literal["pil", "np", "pt", "latent"]

_REMEDY = "draw fewer prompts or lower num_images_per_prompt, lower num_neighbors"


@dataclass
class RetrievalPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        images: B PIL images, or (B, H, W, 3) float in [0, 1], or (B, 3, H, W) in [0, 1], or (B, D, h, w) x_0.
        provenance: of each image.
        heat_maps: of each image and each of its neighbors, in the provenance's order, (H', W'), how much each cell of
            the image looked at it.
    """

    images: Any
    provenance: list[Provenance]
    heat_maps: list[list[Tensor]]

    def save(self, folder: str | Path) -> list[Path]:
        """Write PIL images into `folder` as PNG files with their provenance inside, and beside as JSON.

        Returns:
            Their paths.
        """
        paths = [Path(folder) / f"{number:04d}.png" for number in range(len(self.images))]
        for path, image, origin in zip(paths, self.images, self.provenance, strict=True):
            save_picture(path, np.asarray(image), origin)
        return paths


def check_output_type(name: str) -> None:
    """Refuse a `name` that is no output type.

    Raises:
        ValueError: it is none.
    """
    if name not in get_args(OutputType):
        raise ValueError(f"output_type: expected one of {', '.join(get_args(OutputType))}, got {name!r}")


def to_output(codec: Codec, clean: Tensor, output_type: OutputType) -> Any:
    """Images out of the network's coordinates.

    Args:
        codec: of the generator.
        clean: (B, D, h, w) x_0.
        output_type: `pil`, `np`, `pt` or `latent`.

    Returns:
        What `RetrievalPipelineOutput.images` says.
    """
    if output_type == "latent":
        return clean
    images = codec.decode(clean).float()
    if output_type == "pil":
        return [Image.fromarray(pixels) for pixels in images_to_pixels(images).cpu().numpy()]
    unit = (images.clamp(-1, 1) + 1) / 2
    return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()


@contextmanager
def enough_memory(images: int, what: str = "", remedy: str = _REMEDY) -> Iterator[None]:
    """Say what to lower where memory does not suffice for so many images at once.

    Args:
        images: their number.
        what: draws them, for the message.
        remedy: first thing to do.

    Raises:
        ModelError: it does not.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        told = f" ({what})" if what else ""
        raise ModelError(
            f"out of memory while drawing {images} images at once{told}: {remedy}, use precision bf16, or call "
            "enable_model_cpu_offload()"
        ) from error


def as_arrays(images: Sequence[Image.Image]) -> Pixels:
    """PIL `images` of one size as (B, H, W, 3) uint8."""
    return np.stack([np.asarray(image) for image in images])
