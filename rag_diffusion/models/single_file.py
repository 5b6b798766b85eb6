"""Published pipelines in one file, as their authors and many user interfaces have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError, safe_open

from rag_diffusion.errors import ModelError

_OF_XL = "conditioner.embedders."  # text encoders of Stable Diffusion XL; those before it are a cond_stage_model
_SUFFIX = ".safetensors"


def read_single_file(path: Path | str, **options: Any) -> Any:
    """A pipeline of diffusers out of one file of safetensors, Stable Diffusion 1, 2 or XL.

    Args:
        path: of a file, or a hub address of one, whose family `config` has to say then.
        **options: of diffusers' `from_single_file`: `config`, a folder or hub name of a pipeline of the same shape,
            whose tokenizer and settings are taken (without it they are fetched from the hub), parts in the place of
            those of the file, `torch_dtype`, `local_files_only`, ...

    Raises:
        ModelError: it is no such file, or what it lacks cannot be had.
    """
    name = str(path)
    if not name.endswith(_SUFFIX):
        raise ModelError(f"{name}: expected a file of {_SUFFIX}; pickled weights run code where they are read")
    try:
        family = _family(name, options.get("config"))
        return getattr(diffusers, family).from_single_file(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{name}: expected Stable Diffusion 1, 2 or XL in one file, and its settings by config= (a folder or hub "
            f"name of a pipeline of its shape), got: {str(error).strip().splitlines()[0]}"
        ) from None


def _family(name: str, config: Any) -> str:
    """Name of the class of diffusers."""
    if config is not None:
        found = str(diffusers.DiffusionPipeline.load_config(config)["_class_name"])
        if found not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
            raise ValueError(f"config of a {found}")
        return found
    with safe_open(name, framework="pt") as file:
        large = any(key.startswith(_OF_XL) for key in file.keys())  # noqa: SIM118 -- it is no dictionary
    return "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"
