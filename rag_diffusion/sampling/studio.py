"""Pictures for texts, as somebody asks for them at a terminal: any number of each, variants side by side, seeds told.

An image depends on its prompt, its seed and its neighbors alone: `--seed 7 --num-images 3` are the seeds 7, 8 and 9,
each of them the picture that it is by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ConfigError, MixedBatchError
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import OnStep, RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance, Sign, save_picture
from rag_diffusion.sampling.seeds import MOST, seeded

Variant = Literal["none", "random", "retrieved", "given"]
BATCH = 8  # images drawn at once


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image.

    Attributes:
        variant: which neighbors it was shown.
        pixels: (H, W, 3).
        provenance: where it came from.
        heat: of each neighbor, (H', W'), how much each cell of the image looked at it.
    """

    variant: Variant
    pixels: Pixels
    provenance: Provenance
    heat: Sequence[Tensor]

    def save(self, path: Path, sign: Sign | None = None) -> Path:
        """Write a PNG or JPEG with its provenance inside, and the same as JSON beside it; a file that is there stays.

        Args:
            path: wanted; its ending says the form.
            sign: puts credentials inside; None puts none.

        Returns:
            Where it is: `path`, or the same name with a number where there is a file already.
        """
        free = free_path(path)
        save_picture(free, self.pixels, self.provenance, sign)
        return free


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureRequest:
    """One picture that is asked for.

    Attributes:
        prompt: the text.
        seed: of the noise.
        variant: which neighbors it is shown, see `draw`.
        given: neighbors by hand, of the variant `given`.
        negative: by hand, to guide away from, beside all others.
        exclude: pair ids that must not be retrieved.
        num_neighbors: of `random` and `retrieved`.
        image: to begin with instead of noise; None begins with noise.
        mask: (S, S), white where `image` is drawn anew; None is everywhere.
        options: more of `RetrievalPipeline.__call__`.
    """

    prompt: str
    seed: int
    variant: Variant
    given: Sequence[Neighbor] = ()
    negative: Sequence[Neighbor] = ()
    exclude: Collection[str] = ()
    num_neighbors: int = 3
    image: Pixels | None = None
    mask: Pixels | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, other: PictureRequest) -> bool:
        """Whether this one and the `other` may be drawn in one batch."""
        mine, theirs = (
            (one.variant, one.num_neighbors, one.image is None, one.mask is None, dict(one.options))
            for one in (self, other)
        )
        return mine == theirs


def choose_seeds(seed: int | None, count: int) -> list[int]:
    """Seeds of `count` images: from `seed` on, or drawn.

    Raises:
        ConfigError: one is below zero, or too large.
    """
    if seed is None:
        return [random.randrange(2**31) for _ in range(count)]
    if not 0 <= seed <= MOST - count:
        raise ConfigError(f"--seed: expected a whole number from 0 to {MOST - count}, got {seed}")
    return [seed + number for number in range(count)]


def draw(
    pipeline: RetrievalPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    variants: Sequence[Variant],
    given: Sequence[Neighbor] = (),
    num_neighbors: int = 3,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Picture]:
    """Draw every prompt with every seed; the variants of one prompt and seed start from the same noise.

    Args:
        pipeline: draws.
        prompts: texts.
        seeds: of the images of each prompt.
        variants: `none` draws by the prompt alone, `random` with pairs that have nothing to do with it, `retrieved`
            with those that are found, `given` with `given`.
        given: neighbors by hand.
        num_neighbors: of `random` and `retrieved`.
        options: more of `RetrievalPipeline.__call__`.

    Yields:
        The images, those of a prompt and seed in the order of `variants`.
    """
    drawings = [(prompt, seed) for prompt in prompts for seed in seeds]
    for start in range(0, len(drawings), BATCH):
        batch = drawings[start : start + BATCH]
        drawn = [
            _drawn(
                pipeline,
                [
                    PictureRequest(
                        prompt=prompt,
                        seed=seed,
                        variant=variant,
                        given=given,
                        num_neighbors=num_neighbors,
                        options=options or {},
                    )
                    for prompt, seed in batch
                ],
            )
            for variant in variants
        ]
        for row in zip(*drawn, strict=True):
            yield from row


def _drawn(pipeline: RetrievalPipeline, requests: Sequence[PictureRequest]) -> list[Picture]:
    """Pictures at once, or each alone where some begin with a neighbor and others have none."""
    try:
        return draw_batch(pipeline, requests)
    except MixedBatchError:
        return [draw_batch(pipeline, [one])[0] for one in requests]


def draw_batch(
    pipeline: RetrievalPipeline, requests: Sequence[PictureRequest], on_step: OnStep | None = None
) -> list[Picture]:
    """Draw pictures that fit each other in one batch; each is the one that it is alone.

    Args:
        pipeline: draws.
        requests: B, of which every one `fits` the first.
        on_step: as `callback_on_step_end` of the pipeline.

    Returns:
        B pictures, in their order.

    Raises:
        RagDiffusionError, ValueError: as the pipeline.
    """
    first = requests[0]
    variant, number = first.variant, first.num_neighbors
    how: dict[str, Any] = {"num_neighbors": number if variant == "retrieved" else 0}
    if variant == "given":
        how["neighbors"] = [list(request.given) for request in requests]
    if variant == "random":
        how["neighbors"] = [random_neighbors(pipeline, number, request.seed) for request in requests]
    if any(request.negative for request in requests):
        how["negative_neighbors"] = [list(request.negative) for request in requests]
    if variant == "retrieved" and any(request.exclude for request in requests):
        how["exclude"] = [request.exclude for request in requests]
    if first.image is not None:
        how["image"] = [request.image for request in requests]
    if first.mask is not None:
        how["mask_image"] = [request.mask for request in requests]
    left_out = _OF_RETRIEVAL if variant != "retrieved" else ()
    if variant == "none":
        left_out = (*left_out, "style_images")
    kept = {name: value for name, value in first.options.items() if name not in left_out and name not in how}
    if on_step is not None:
        kept["callback_on_step_end"] = on_step
    seeds = seeded([request.seed for request in requests])
    out = pipeline([request.prompt for request in requests], **how, **kept, generator=seeds)
    return [
        Picture(variant=variant, pixels=pixels, provenance=origin, heat=heat)
        for pixels, origin, heat in zip(as_arrays(out.images), out.provenance, out.heat_maps, strict=True)
    ]


_OF_RETRIEVAL = (
    "num_style_neighbors", "style", "source", "where", "exclude", "retrieval_schedule", "weight_by_step",
    "weight_by_map",
)  # fmt: skip


def random_neighbors(pipeline: RetrievalPipeline, count: int, seed: int) -> list[Neighbor]:
    """Neighbors that have nothing to do with any prompt.

    Args:
        pipeline: has the knowledge base that they are of.
        count: how many at most.
        seed: the same ones for the same seed.
    """
    assert pipeline.retriever is not None
    pairs = pipeline.retriever.corpus
    rows = np.random.default_rng(seed).choice(len(pairs), min(count, len(pairs)), replace=False)
    if pipeline.blocklist:
        reasons = pipeline.blocklist.reasons(pairs.cells("caption", rows))
        rows = rows[[not reason for reason in reasons]]
    return neighbors_from(pairs, pairs.ids(np.sort(rows)))


def free_path(path: Path) -> Path:
    """`path`, or the same name with a number where there is a file already: nothing is written over."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return path if not path.exists() else next(one for one in numbered if not one.exists())


def file_name(prompt: str, seed: int, variant: Variant | None = None) -> str:
    """A name that tells what a picture is: `a-red-apple-7.png`.

    Args:
        prompt: what was asked for.
        seed: of its noise.
        variant: which neighbors it was shown; None leaves that out.
    """
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:60].rstrip("-_")
    return "-".join([words or "picture", str(seed), *([variant] if variant else [])]) + ".png"
