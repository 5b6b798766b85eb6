"""Clips drawn on the spot: a disc that moves, as frames, as a data set, and as an npm package of animated WebP."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.readers.packages import Package
from rag_diffusion.store.clips import Clip, Clips, write_clips


def moving_disc(count: int, side: int, color: str, speed: float = 1.0) -> Pixels:
    """(count, side, side, 3) frames of a disc that goes from left to right."""
    frames = []
    for number in range(count):
        image = Image.new("RGB", (side, side), "white")
        x = side / 4 + speed * number * side / (3 * count)
        ImageDraw.Draw(image).ellipse((x - side / 5, side / 4, x + side / 5, 3 * side / 4), fill=color)
        frames.append(np.asarray(image))
    return np.stack(frames)


def tiny_clips(folder: Path, side: int = 64, count: int = 16) -> Clips:
    """Nine clips, three of each split, two of train in one family."""
    colors = ("red", "green", "blue", "orange", "purple", "black", "teal", "brown", "gold")
    clips, frames = [], []
    for number, color in enumerate(colors):
        split = ("train", "validation", "test")[number % 3]
        family = "disc-0" if number == 3 else f"disc-{number}"
        clips.append(
            Clip(
                name=f"clip/{color}-disc", entity=f"{color}-disc", family=family, split=split,
                title=f"{color} disc", caption=f"a {color} disc, moving", licence="MIT", attribution="nobody",
                seconds=0.08, start=number * count, count=count,
            )
        )  # fmt: skip
        frames.append(moving_disc(count, side, color))
    write_clips(folder, clips, frames, facts={"rejected": [{"what": "x", "reason": "a clip of one frame"}]})
    return Clips.open(folder)


def webp(frames: Pixels) -> bytes:
    """An animated WebP without loss; a still one of one frame."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    animated = {"save_all": True, "append_images": others, "duration": 40} if others else {}
    first.save(buffer, "WEBP", lossless=True, **animated)
    return buffer.getvalue()


def package(cache: Path, name: str, files: dict[str, bytes]) -> Package:
    """An archive in the cache, as the package client leaves it there."""
    cache.mkdir(parents=True, exist_ok=True)
    pinned = Package(name=name, version="1.0.0", integrity="")
    with tarfile.open(cache / pinned.archive, "w:gz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    digest = hashlib.sha512((cache / pinned.archive).read_bytes()).digest()
    return Package(name=name, version="1.0.0", integrity="sha512-" + base64.b64encode(digest).decode())


def with_finer_maps_to_come(generator: Generator) -> Generator:
    """The same generator with attention on a coarser map, so that there are finer ones that it could select as well."""
    torch.manual_seed(1)
    config = {name: value for name, value in generator.unet.config.items() if name != "_name_or_path"}
    unet = RetrievalUNet.from_config(config | {"neighbor_skips": (2,)})
    for attention in unet.neighbor_attention.values():
        torch.nn.init.normal_(attention.to_out.weight, std=0.2)
    generator.unet = unet.eval()
    return generator
