"""A cascade on disk.

cascade.json stands beside the first stage's files and names the folders of the others with their settings:

    {"stages": [{"folder": "stage-2", "scheduler": "DDIMScheduler", "num_inference_steps": 10, ...}]}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rag_diffusion import layout
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.published import save_published
from rag_diffusion.models.published_upsampler import PublishedUpsampler, load_published_upsampler
from rag_diffusion.models.super_resolution import UPSAMPLER, SuperResolution, load_upsampler, save_upsampler
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings, check_chain

_LOG = logging.getLogger(__name__)

CASCADE = "cascade.json"


def load_stages(folder: Path | str, device: torch.device | str = "cpu") -> list[CascadeStage]:
    """The further stages of a cascade's folder; none where it has no cascade.json.

    Args:
        folder: of the first stage.
        device: where the weights are to live.

    Raises:
        ModelError: cascade.json or a stage is damaged.
    """
    path = Path(folder) / CASCADE
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["stages"]
        pairs = [
            (
                (Path(folder) / entry.pop("folder"), entry.pop("low_size", None)),
                StageSettings(**entry),
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ModelError(
            f"{path}: expected the stages of a cascade with their settings, got: {error}; restore it"
        ) from None
    return [CascadeStage(model=load_stage(*where, device), settings=settings) for where, settings in pairs]


def save_stages(stages: Sequence[CascadeStage], folder: Path) -> None:
    """Write further `stages` and cascade.json into the `folder` of the first one; nothing where there are none."""
    if not stages:
        return
    entries = []
    for number, stage in enumerate(stages, start=2):
        name = f"stage-{number}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        if isinstance(stage.model, PublishedUpsampler):
            save_published(stage.model.published, folder / name)
        else:
            save_upsampler(stage.model, folder / name)
        entries.append({"folder": name, "low_size": stage.model.low_size} | asdict(stage.settings))
    (folder / CASCADE).write_text(json.dumps({"stages": entries}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def project_stages(root: Path, cascade: str, generator: Generator) -> list[CascadeStage]:
    """The super-resolution stage that a project adds to a generator that has none.

    Args:
        root: of the project.
        cascade: `finetune.cascade` of params.yaml: `none`; `auto`, data/upsampler where it fits the generator; or a
            folder, or DeepFloyd IF stage II by folder or hub name.
        generator: the first stage.

    Returns:
        One stage, with the defaults of `StageSettings`, or none.

    Raises:
        ModelError: it is damaged, or was named and does not fit.
    """
    auto = cascade == "auto"
    path = root / (layout.UPSAMPLER if auto else cascade)
    if cascade == "none" or (auto and not path.is_dir()):
        return []
    model = load_stage(path if path.is_dir() else cascade, device=generator.device)
    stages = [CascadeStage(model=model, settings=StageSettings())]
    try:
        check_chain(generator, stages)
    except ModelError as error:
        if not auto:
            raise
        _LOG.info("%s is left out, pictures stay at %d px: %s", layout.UPSAMPLER, generator.image_size, error)
        return []
    return stages


def load_stage(
    name: Path | str, low_size: int | None = None, device: torch.device | str = "cpu", **options: Any
) -> SuperResolution:
    """Read a super-resolution model.

    Args:
        name: folder of the project's own, or folder or hub name of DeepFloyd IF stage II.
        low_size: side of the images that a published one is given; None: a quarter of its own.
        device: where it is to live.
        **options: of `RetrievalUNet.from_pretrained` for a published one.

    Raises:
        ModelError: it cannot be had, is damaged, or is none.
    """
    own = (Path(name) / UPSAMPLER).exists()
    model = (
        load_upsampler(Path(name), device) if own else load_published_upsampler(str(name), device, low_size, **options)
    )
    if Path(name).is_dir():
        model.fingerprint = tree_hash(name)
    return model
