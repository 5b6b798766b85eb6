"""Generators by name: a folder of this project, or a published diffusers pipeline by folder or hub name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rag_diffusion.errors import ModelError, VariantError
from rag_diffusion.files import tree_hash
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.own import SPEC, load_own, save_own
from rag_diffusion.models.published import load_published, save_published

EXTENSIONS = ("neighbor_fine_skips", "neighbor_fine_dim", "neighbor_roles")  # by which a network grows
_OPTIONS = (*EXTENSIONS, "neighbor_prior_strength", "variant", "torch_dtype", "dtype")
_SAVED = ("safe_serialization", "variant", "max_shard_size")


def load_generator(name: Path | str, device: torch.device | str = "cpu", **options: Any) -> Generator:
    """Read a generator.

    Args:
        name: folder that `save_generator` wrote, or folder or hub name of a Stable Diffusion (XL) or DeepFloyd IF
            pipeline.
        device: where it is to live.
        **options: for a published pipeline, of `RetrievalUNet.from_pretrained`, e.g. `neighbor_skips=(2, 5)` and
            `torch_dtype`; for a generator of this project, what it is extended by, `EXTENSIONS`,
            `neighbor_prior_strength`, `variant` and `torch_dtype`.

    Returns:
        U-Net, codec, text encoder and variance schedule, in evaluation mode.

    Raises:
        ModelError: there is none, it cannot be reached, is incomplete, or its weights have another shape.
        VariantError: there is none of this variant.

    Examples:
        >>> from rag_diffusion import load_generator
        >>> generator = load_generator("data/base")
        >>> generator.image_size, generator.prediction_type
        (64, 'v_prediction')
    """
    folder = Path(name)
    own = (folder / SPEC).exists()
    unknown = sorted(set(options) - set(_OPTIONS)) if own else []
    if unknown:
        raise ModelError(
            f"{name}: expected no options but {', '.join(_OPTIONS)} for a generator of this project, got {unknown}"
        )
    try:
        generator = load_own(folder, device, **options) if own else load_published(str(name), device, **options)
    except ModelError as error:
        if (variant := options.get("variant")) is not None and variant in str(error):
            raise VariantError(
                f"{name}: You are trying to load the model files of the `variant={variant}`, but no such modeling "
                "files are available; name the variant that is there, or none"
            ) from None
        raise
    generator.fingerprint = tree_hash(folder) if folder.is_dir() else str(name)
    return generator


def save_generator(generator: Generator, folder: Path, scheduler: Any = None, **options: Any) -> None:
    """Write a generator into an existing folder; one of a published family stays a pipeline that diffusers reads.

    Args:
        generator: any.
        folder: where to.
        scheduler: of diffusers, to stand beside it; None leaves that of a published pipeline.
        **options: of diffusers' `save_pretrained`: `variant`, `max_shard_size`, and for a published family others.

    Raises:
        ValueError: other options for a generator of this project, whose weights are float16.
    """
    if generator.published is None and set(options) - set(_SAVED):
        raise ValueError(
            f"save_pretrained: expected of a generator of this project no options but {', '.join(_SAVED)}, got "
            f"{sorted(options)}"
        )
    if generator.published is None:
        save_own(generator, folder, **options)
        if scheduler is not None:
            scheduler.save_pretrained(folder / "scheduler")
        return
    if scheduler is not None:
        generator.published.register_modules(scheduler=scheduler)
    save_published(generator.published, folder, **options)
