"""The neighbors of a batch: distinct images and captions once, and who sees which."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.neighbor_control import (
    BOTH,
    Mask,
    WeightByMap,
    WeightByStep,
    as_curve,
    as_map_weights,
    as_mask,
    check_aspect,
    into_mask,
    mask_pixels,
)
from rag_diffusion.models.neighbor_kv import CONTENT, STYLE
from rag_diffusion.readers.images import on_white, to_frame
from rag_diffusion.readers.svg import picture_of
from rag_diffusion.store.pairs import Pairs

Picture = Image.Image | Pixels
Role = Literal["content", "style"]
MASK_SIDE = 256  # pixels at which masks are compared


def check_picture(picture: Picture, what: str) -> None:
    """Refuse what is neither a PIL image nor a uint8 array (H, W), (H, W, 3) or (H, W, 4).

    Args:
        picture: what a caller gave.
        what: how the error begins.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(picture, np.ndarray):
        shape, kind = picture.shape, picture.dtype
        whole = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        got = None if kind == np.uint8 and whole and 0 not in shape else f"{kind} {shape}"
    else:
        got = None if isinstance(picture, Image.Image) else type(picture).__name__
    if got is not None:
        raise ValueError(f"{what}: expected a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4), got {got}")


def framed_pixels(picture: Picture, size: int | tuple[int, int]) -> Pixels:
    """A picture of any shape in a frame; transparency and what is missing become white.

    Args:
        picture: of any size.
        size: side of a square, or (H, W), in pixels.

    Returns:
        (H, W, 3) uint8.
    """
    return np.asarray(to_frame(_rgb(picture), (size, size) if isinstance(size, int) else size))


def _rgb(picture: Picture) -> Image.Image:
    return on_white(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbor:
    """One image-text pair that conditions a drawing.

    Attributes:
        image: PIL image or (H, W), (H, W, 3) or (H, W, 4) uint8 array of any size; transparency becomes white, gray
            becomes RGB, and an image of another aspect than the drawing stands in a white frame.
        caption: its text.
        pair_id: its name; two neighbors of one name are one neighbor.
        source, licence, attribution: for the provenance.
        score: of the retrieval; None where it was given by hand.
        weight: how much it counts: 2 counts twice, 0 not at all.
        role: `content` where it shows the thing that is drawn, `style` where it shows another in the manner wanted.
        weight_by_step: factor of the weight over the denoising steps: `constant`, `linear`, `early`, `late`, an
            interval (start, end) or points (fraction, weight), see `neighbor_control.as_curve`.
        weight_by_map: factor by attended map: `both`, `style` (fine maps alone), `layout` (coarse ones alone), or side
            in cells -> weight.
        mask: where in the picture it may act: `left`, `right`, `top`, `bottom`, a box (left, top, right, bottom) in
            shares of the picture, a picture or array, square or of the drawing's aspect, or a file, white where it
            acts. None is everywhere.
        fit_mask: whether its picture is made to fit into the box around the mask, so that it is seen there as a whole;
            otherwise it lies over the whole drawing and the mask cuts it.
        negative: guide away from it, as from a negative prompt: see `sampling.guidance`.

    Raises:
        ValueError: one of them is out of its range, or the mask is empty.
        DataError: the mask's file is no picture.

    Examples:
        >>> from rag_diffusion import Neighbor
        >>> neighbor = Neighbor.from_file("photos/red.png", licence="CC0-1.0", weight=2)  # captioned by photos/red.txt
        >>> neighbor.caption, neighbor.pixels(64).shape
        ('a red circle', (64, 64, 3))
    """

    image: Picture
    caption: str
    pair_id: str = ""
    source: str = ""
    licence: str = ""
    attribution: str = ""
    score: float | None = None
    weight: float = 1.0
    role: Role = "content"
    weight_by_step: WeightByStep = ()
    weight_by_map: WeightByMap = BOTH
    mask: Mask | None = None
    fit_mask: bool = True
    negative: bool = False

    def __post_init__(self) -> None:
        plain: dict[str, object] = {
            "weight_by_step": as_curve(self.weight_by_step),
            "weight_by_map": as_map_weights(self.weight_by_map),
        }
        plain |= {} if self.mask is None else {"mask": as_mask(self.mask)}
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.role not in get_args(Role):
            raise ValueError(f"neighbor {self.pair_id!r}: expected the role content or style, got {self.role!r}")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"neighbor {self.pair_id!r}: expected a finite weight of at least 0, got {self.weight}")
        if self.score is not None and not np.isfinite(self.score):
            raise ValueError(f"neighbor {self.pair_id!r}: expected a finite score or None, got {self.score}")
        check_picture(self.image, f"neighbor {self.pair_id!r}")

    @classmethod
    def from_file(cls, path: str | Path, caption: str | None = None, **facts: Any) -> Neighbor:
        """A picture of a file, upright by its EXIF orientation.

        Args:
            path: PNG, JPEG, WebP, GIF, AVIF, BMP, TIFF or SVG.
            caption: its text; None is the first line of the text file of the same name beside it, or none at all.
            **facts: more attributes: `source`, `licence`, `attribution`, `weight`, `pair_id`.

        Returns:
            A neighbor whose pixels are decoded.

        Raises:
            DataError: there is no such file, or it is no picture.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: expected an image file, got {error.strerror}; name one, as in Neighbor.from_file("
                '"photo.png", caption="my apple")'
            ) from None
        beside = path.with_suffix(".txt")
        if caption is None:
            text = beside.read_text(encoding="utf-8-sig").strip() if beside.is_file() else ""
            caption = text.splitlines()[0].strip() if text else ""
        return cls(image=picture_of(content, str(path)), caption=caption, **{"source": path.name} | facts)

    @cached_property
    def name(self) -> str:
        """Its pair id, or one made from its content and from how it is used."""
        mark = f"-{self.control_digest}" if self.controlled else ""
        return self.pair_id or f"given/{self.digest}{mark}"

    @cached_property
    def digest(self) -> str:
        """Hash of what it shows and says."""
        image = _rgb(self.image)
        content = str(image.size).encode() + image.tobytes() + self.caption.encode()
        return hashlib.sha256(content).hexdigest()[:12]

    @property
    def controlled(self) -> bool:
        """Whether it is used otherwise than everywhere, at all steps and attended maps alike."""
        everywhere = not self.weight_by_step and self.weight_by_map == BOTH and self.mask is None
        return not everywhere or self.negative

    @cached_property
    def control_digest(self) -> str:
        """Hash of how it is used."""
        mask = None if self.mask is None else mask_pixels(self.mask, MASK_SIDE)  # type: ignore[arg-type]
        parts = (self.weight_by_step, self.weight_by_map, self.fit_mask, self.negative)
        return hashlib.sha256(repr(parts).encode() + (b"" if mask is None else mask.tobytes())).hexdigest()[:6]

    @property
    def encoding_name(self) -> str:
        """Its name, and where its picture stands: neighbors of one such name have the same feature maps."""
        return self.name if self.mask is None or not self.fit_mask else f"{self.name} {self.control_digest}"

    def mask_pixels(self, size: int | tuple[int, int]) -> Pixels | None:
        """Where it may act, (H, W) uint8 levels of a drawing of `size`, its side or (H, W); None is everywhere."""
        check_aspect(self.mask, (size, size) if isinstance(size, int) else size)  # type: ignore[arg-type]
        return None if self.mask is None else mask_pixels(self.mask, size)  # type: ignore[arg-type]

    def pixels(self, size: int | tuple[int, int]) -> Pixels:
        """(H, W, 3) uint8, as the network sees it beside a drawing of `size`, its side or (H, W) in pixels."""
        mask = self.mask_pixels(size) if self.fit_mask else None
        return framed_pixels(self.image, size) if mask is None else into_mask(_rgb(self.image), mask)


@dataclass(frozen=True, kw_only=True)
class NeighborBatch:
    """Neighbors of B images.

    Attributes:
        pair_ids: N distinct pairs.
        captions: their texts.
        images: (N, 3, H, W) in [-1, 1].
        rows: (B, K) which of the N each image sees.
        weights: (B, K) how much each counts; 0 where there is none.
        roles: (B, K) `CONTENT` or `STYLE` of `models.neighbor_attention`; None is content.
    """

    pair_ids: tuple[str, ...]
    captions: tuple[str, ...]
    images: Tensor
    rows: Tensor
    weights: Tensor
    roles: Tensor | None = None

    @classmethod
    def gather(
        cls, corpus: Pairs, lists: Sequence[Sequence[str]], style: Sequence[Sequence[str]] | None = None
    ) -> NeighborBatch:
        """Collect the neighbors named by `lists`, one list of pair ids an image; lists may differ in length.

        Args:
            corpus: where they are.
            lists: content neighbors of B images.
            style: style neighbors of them; None is none.

        Returns:
            The N distinct pairs, and which of them each of the B images sees.

        Raises:
            LineageError: the corpus has no such pair.
        """
        manners = [()] * len(lists) if style is None else style
        both = [[*names, *others] for names, others in zip(lists, manners, strict=True)]
        distinct = tuple(sorted({pair_id for names in both for pair_id in names}))
        rows, weights = places(distinct, both, [[1.0] * len(names) for names in both])
        roles = torch.full_like(rows, CONTENT)
        for number, names in enumerate(lists):
            roles[number, len(names) : len(both[number])] = STYLE
        corpus_rows = corpus.rows(distinct)
        captions = tuple(corpus.cells("caption", corpus_rows))
        images = pixels_to_images(torch.from_numpy(corpus.pixels(corpus_rows)))
        return cls(pair_ids=distinct, captions=captions, images=images, rows=rows, weights=weights, roles=roles)

    @property
    def mask(self) -> Tensor:
        """(B, K) true where there is a neighbor."""
        return self.weights > 0

    def __len__(self) -> int:
        return len(self.rows)


def places(
    distinct: Sequence[str], lists: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]
) -> tuple[Tensor, Tensor]:
    """Numbers in place of names.

    Args:
        distinct: N names.
        lists: names of each of B images, out of `distinct`.
        weights: one for each of them.

    Returns:
        (B, K) int64 where each name stands in `distinct`, and (B, K) float32 its weight, 0 where a list has ended.
    """
    place = {pair_id: number for number, pair_id in enumerate(distinct)}
    width = max((len(names) for names in lists), default=0)
    rows, counts = torch.zeros(len(lists), width, dtype=torch.long), torch.zeros(len(lists), width)
    for number, (names, values) in enumerate(zip(lists, weights, strict=True)):
        rows[number, : len(names)] = torch.tensor([place[name] for name in names], dtype=torch.long)
        counts[number, : len(names)] = torch.tensor(values)
    return rows, counts


def neighbors_from(
    corpus: Pairs, pair_ids: Sequence[str], scores: Sequence[float | None] | None = None, role: Role = "content"
) -> list[Neighbor]:
    """Pairs of a corpus as neighbors.

    Args:
        corpus: where they are.
        pair_ids: which.
        scores: of the retrieval, one each; None where they were not retrieved.
        role: of all of them.

    Returns:
        A neighbor for each id, in their order.

    Raises:
        LineageError: the corpus has no such pair.
    """
    rows = corpus.rows(pair_ids)
    return [
        Neighbor(
            image=image,
            caption=caption,
            pair_id=pair_id,
            source=source,
            licence=licence,
            attribution=attribution,
            score=score,
            role=role,
        )
        for image, pair_id, score, caption, source, licence, attribution in zip(
            corpus.pixels(rows),
            pair_ids,
            [None] * len(pair_ids) if scores is None else scores,
            *(corpus.cells(name, rows) for name in ("caption", "source", "licence", "attribution")),
            strict=True,
        )
    ]
