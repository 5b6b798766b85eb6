"""Crops of rendered originals beside the corpus' own images, to train a super-resolution stage on.

The large images are rendered once from what the corpus keeps as `original`; an SVG can be rendered at any size. Every
draw depends on (seed, step) alone, so that a resumed run sees the same.

Shapes: B batch, l side of a low-resolution image, H of a large one, N train pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.config import UpsampleTrainConfig
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.files import atomic_dir
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.progress import progress
from rag_diffusion.readers.images import render_svg
from rag_diffusion.store.corpus import Corpus

_MARGIN = 4  # pixels of the low-resolution image around a crop, which its upsampling sees
_IMAGES = "images.npy"


@dataclass(frozen=True, kw_only=True)
class Crops:
    """B crops.

    Attributes:
        low: (B, 3, ., .) in [-1, 1], with `margin` pixels more on every side.
        high: (B, 3, H', H') in [-1, 1].
        captions: B, empty where dropped.
        margin: pixels of `low` that are to be cut off after upsampling, times the factor.
        neighbors: cropped at the same places; None where the stage is trained without any.
    """

    low: Tensor
    high: Tensor
    captions: tuple[str, ...]
    margin: int
    neighbors: NeighborBatch | None = None


def rendered(corpus: Corpus, rows: Ints, size: int, folder: Path) -> Pixels:
    """Images of some pairs at another size, rendered from their originals once and kept.

    Args:
        corpus: has the originals.
        rows: N of its rows.
        size: side in pixels.
        folder: where they are kept; its name must tell corpus, rows and size.

    Returns:
        (N, size, size, 3), mapped from the disk.

    Raises:
        DataError: a pair has no original that renders.
    """
    if not (folder / _IMAGES).exists():
        with atomic_dir(folder) as beside:
            shape = (len(rows), size, size, 3)
            images = np.lib.format.open_memmap(beside / _IMAGES, "w+", np.uint8, shape)

            def render(number: int) -> None:
                pair = corpus.pair(corpus.ids(rows[number : number + 1])[0])
                if pair.original is None:
                    raise DataError(
                        f"{pair.pair_id}: expected a drawing that renders at {size} pixels, got a pair without "
                        "original; train a super-resolution stage on a corpus of drawings"
                    )
                images[number] = np.asarray(render_svg(pair.original, size, pair.pair_id))

            with ThreadPoolExecutor(2) as pool:
                done = pool.map(render, range(len(rows)))
                for _ in progress(done, total=len(rows), desc=f"rendering at {size} px", unit="img"):
                    pass
            images.flush()
    rendered: Pixels = np.load(folder / _IMAGES, mmap_mode="r")
    return rendered


class CropBatches:
    """Batches by step.

    Args:
        low: (N, l, l, 3) images.
        high: (N, H, H, 3) the same drawings.
        captions: N.
        config: crop size and shares.
        seed: of every draw.
        candidates: of each of the N, the numbers of its neighbors among them, best first; None is none of any.

    Raises:
        ConfigError: the crop does not fit the images, or the patches.
    """

    def __init__(
        self,
        low: Pixels,
        high: Pixels,
        captions: list[str],
        config: UpsampleTrainConfig,
        seed: int,
        candidates: Sequence[Ints] | None = None,
    ) -> None:
        self._candidates = candidates
        self._low, self._high, self._captions, self._config, self._seed = low, high, captions, config, seed
        self._factor, rest = divmod(high.shape[1], low.shape[1])
        unit = max(self._factor, config.model.patch_size * 2 ** (len(config.model.block_out_channels) - 1))
        if rest or config.crop_size % unit or config.crop_size > high.shape[1]:
            raise ConfigError(
                f"upsample.crop_size: expected a multiple of {unit} up to {high.shape[1]}, got {config.crop_size}"
            )

    def __getitem__(self, step: int) -> Crops:
        """The batch of a step."""
        config, side = self._config, self._low.shape[1]
        rng = np.random.default_rng([self._seed, step])
        whole = rng.random() < config.whole_share
        crop = side if whole else config.crop_size // self._factor
        count = max(1, round(config.batch_size * (config.crop_size / self._high.shape[1]) ** 2))
        rows = rng.choice(len(self._low), count if whole else config.batch_size)
        margin = 0 if whole else _MARGIN
        places = [self._place(row, crop, 1 if whole else config.crop_choices, rng) for row in rows]
        dropped = rng.random(len(rows)) < config.drop_text
        around = [np.pad(self._low[row], ((margin, margin), (margin, margin), (0, 0)), "edge") for row in rows]
        both = list(zip(rows.tolist(), places, strict=True))
        return Crops(
            low=_images(
                [place.of(image, crop + 2 * margin) for image, place in zip(around, places, strict=True)],
            ),
            high=_images([self._large(row, place, crop) for row, place in both]),
            captions=tuple("" if drop else self._captions[row] for row, drop in zip(rows, dropped, strict=True)),
            margin=margin,
            neighbors=self._neighbors(both, crop, rng),
        )

    def _place(self, row: int, crop: int, choices: int, rng: np.random.Generator) -> _Place:
        """Of several places, the one with the largest variance."""
        low = self._low[row]
        corners = rng.integers(0, len(low) - crop + 1, (choices, 2)).tolist()
        top, left = max(corners, key=lambda corner: _part(low, corner[0], corner[1], crop).astype(np.float32).var())
        if self._config.augment_turn:
            return _Place(top, left, turns=rng.integers(4).item(), mirrored=bool(rng.integers(2)))
        return _Place(top, left)

    def _large(self, row: int, place: _Place, crop: int) -> Pixels:
        return place.of(self._high[row], self._factor * crop, self._factor)

    def _neighbors(self, both: list[tuple[int, _Place]], crop: int, rng: np.random.Generator) -> NeighborBatch | None:
        most = self._config.num_neighbors
        if not most or self._candidates is None:
            return None
        chosen: list[list[int]] = []
        for row, _ in both:
            count = 0 if rng.random() < self._config.drop_neighbors else rng.integers(1, most + 1).item()
            near = self._candidates[row]
            chosen.append(rng.choice(near, min(count, len(near)), replace=False).tolist())
        images = [
            self._large(other, place, crop) for (_, place), others in zip(both, chosen, strict=True) for other in others
        ]
        captions = tuple(self._captions[other] for others in chosen for other in others)
        return as_batch([] if not images else [_images(images)], captions, [len(others) for others in chosen])


@dataclass(frozen=True)
class _Place:
    """Where a crop lies in the low-resolution image, and how it is turned."""

    top: int
    left: int
    turns: int = 0
    mirrored: bool = False

    def of(self, image: Pixels, side: int, factor: int = 1) -> Pixels:
        part = _part(image, factor * self.top, factor * self.left, side)
        return np.rot90(part, self.turns)[:, :: -1 if self.mirrored else 1]


def as_batch(images: Sequence[Tensor], captions: tuple[str, ...], counts: Sequence[int]) -> NeighborBatch | None:
    """Neighbors that no two images share.

    Args:
        images: their pixels, (., 3, H, W) in [-1, 1], in one part or several, those of the first image first.
        captions: N texts.
        counts: B, how many each image has.

    Returns:
        None where no image has any.
    """
    if not sum(counts):
        return None
    width, before = max(counts), 0
    rows, weights = torch.zeros(len(counts), width, dtype=torch.long), torch.zeros(len(counts), width)
    for number, count in enumerate(counts):
        rows[number, :count] = torch.arange(before, before + count)
        weights[number, :count] = 1
        before += count
    names = tuple(map(str, range(before)))
    return NeighborBatch(pair_ids=names, captions=captions, images=torch.cat(list(images)), rows=rows, weights=weights)


def fitting_pairs(low: Pixels, high: Pixels, seed: int, count: int = 192) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images for `DetailCodec.fit`, in batches.

    Args:
        low: (N, l, l, 3).
        high: (N, H, H, 3) the same drawings.
        seed: which.
        count: how many.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(low))[:count])
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        yield _images(list(low[part])), _images(list(high[part]))


def _part(image: Pixels, top: int, left: int, side: int) -> Pixels:
    return image[top : top + side, left : left + side]


def _images(parts: list[Pixels]) -> Tensor:
    return pixels_to_images(torch.from_numpy(np.stack(parts)))
