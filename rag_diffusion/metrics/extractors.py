"""The network behind the Frechet distance and KID: the embedded EfficientNet-Lite2, or Inception by name or by file.

n images, D features.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Protocol
from urllib.error import URLError

import numpy as np
import torch
from torchmetrics.image.fid import NoTrainInceptionV3

from rag_diffusion.arrays import Floats, Pixels
from rag_diffusion.config import ScoreConfig
from rag_diffusion.errors import ModelError
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.progress import Progress

BATCH = 32


class Extractor(Protocol):
    """Features of images, and the name under which the distances on them are reported."""

    name: str
    frechet_name: str

    def features(self, pixels: Pixels) -> Floats:
        """Features (n, D) of images `pixels` (n, H, W, 3) uint8."""


class EmbeddedExtractor:
    """Pooled features of EfficientNet-Lite2 with ImageNet weights, `trunk`; its Frechet distance is not called FID."""

    name = "efficientnet_lite2"
    frechet_name = "frechet"

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk

    def features(self, pixels: Pixels) -> Floats:
        """Features of `pixels`, see `Extractor`; D = 1280."""
        return self._trunk.embed(pixels, desc="extract features").pooled


class InceptionExtractor:
    """The Inception network of FID, resized to with antialiasing.

    Args:
        weights: file with its weights; empty fetches them by name.

    Raises:
        ModelError: torch-fidelity is not installed, or the weights are missing, damaged or cannot be fetched.
    """

    name = "inception_v3"
    frechet_name = "fid"

    def __init__(self, weights: str) -> None:
        if weights and not Path(weights).is_file():
            raise ModelError(
                f"score.inception_weights: expected a file with Inception-FID weights, found none at {weights!r}"
            )
        try:
            if weights:  # tensors only: torch-fidelity would unpickle anything
                torch.load(weights, map_location="cpu", weights_only=True)
            self._net = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights or None, antialias=True)
        except ModuleNotFoundError as error:
            raise ModelError(
                f"score.extractor: expected the package torch-fidelity for Inception, found none ({error}); "
                "`pip install 'rag-diffusion[pipeline]'`, or set score.extractor to `embedded`"
            ) from None
        except (URLError, OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
            where = weights or "the hub"
            raise ModelError(
                f"score.extractor: expected Inception-FID weights from {where}, got {type(error).__name__}: {error}; "
                "set score.inception_weights to a file that has them, or score.extractor to `embedded`"
            ) from None

    @torch.inference_mode()
    def features(self, pixels: Pixels) -> Floats:
        """Features of `pixels`, see `Extractor`; D = 2048."""
        parts = []
        with Progress(total=len(pixels), desc="extract Inception features", unit="image") as bar:
            for start in range(0, len(pixels), BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH])).permute(0, 3, 1, 2)
                parts.append(self._net(batch).reshape(len(batch), -1).numpy())
                bar.update(len(batch))
        return np.concatenate(parts).astype(np.float32)


def make_extractor(config: ScoreConfig, trunk: Trunk) -> Extractor:
    """The extractor that `config` names; `trunk` is that of the embedded one.

    Raises:
        ModelError: Inception is asked for and cannot be had.
    """
    return EmbeddedExtractor(trunk) if config.extractor == "embedded" else InceptionExtractor(config.inception_weights)
