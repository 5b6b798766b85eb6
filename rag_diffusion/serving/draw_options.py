"""What may be asked of a drawing over HTTP, field by field, and the pictures that this asks for.

Every field but the prompt may be left out; the project's params.yaml says then what holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import Config
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.project import retrieval_options
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.studio import PictureRequest, Variant, choose_seeds
from rag_diffusion.sampling.style_palettes import COLOUR
from rag_diffusion.sampling.threshold import Thresholding
from rag_diffusion.serving.bounded_json import BodyError
from rag_diffusion.serving.draw_request import MAX_NEIGHBORS, MAX_PROMPT, MAX_SEED, MAX_STEPS
from rag_diffusion.serving.queries import MAX_BASE64, MAX_NAME, Where

MAX_PICTURES = 10  # of one request
MAX_WORDS = 300  # characters of a short text
MAX_STYLE_IMAGES = 4
MAX_COLOURS = 64
MAX_SCALE = 100.0
AUTO = "auto"

Count = Annotated[int, Field(ge=0, le=MAX_NEIGHBORS)]
Share = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]
Words = Annotated[str, Field(max_length=MAX_WORDS)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT, pattern=r"\S")]
Colour = Annotated[str, Field(pattern=COLOUR)]
Base64 = Annotated[str, Field(max_length=MAX_BASE64)]
Points = Annotated[tuple[tuple[Share, Count], ...], Field(max_length=50)]


class ScheduleOptions(BaseModel):
    """How neighbors change over the steps, as `RetrievalSchedule` has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    counts: Points = ()
    shown: Annotated[
        tuple[tuple[Share, Annotated[tuple[Count, ...], Field(max_length=MAX_NEIGHBORS)]], ...], Field(max_length=50)
    ] = ()
    query_again: Annotated[tuple[Share, ...], Field(max_length=10)] = ()
    image_weight: Share = 0.5


class DrawOptions(BaseModel):
    """How a picture is drawn; names are those of `RetrievalPipeline.__call__`, `Guidance` and `Neighbor`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Of the first picture; the next has the next."
    )
    variant: Literal["none", "random", "retrieved"] | None = Field(
        default=None, description="Which neighbors: none, such as have nothing to do with it, or those that are found."
    )
    num_neighbors: Count | None = Field(default=None, description="Pairs to retrieve; 0 draws without.")
    neighbors: Annotated[list[dict[str, Any]], Field(max_length=MAX_NEIGHBORS)] = Field(
        default=[],
        description="By hand: `image` in base64, `caption`, `mask`, `weight`, `role`, `weight_by_step`, "
        "`weight_by_map`, `fit_mask`, `negative`, `licence`, `attribution`. With one that is not negative nothing is "
        "retrieved.",
    )
    num_style_neighbors: Count | None = None
    style: Words | None = None
    style_images: Annotated[list[Base64], Field(max_length=MAX_STYLE_IMAGES)] = []
    where: Where | None = Field(default=None, description="Which pairs may be retrieved.")
    exclude: Annotated[tuple[Annotated[str, Field(max_length=MAX_NAME)], ...], Field(max_length=1000)] = ()
    weight_by_step: Words | None = None
    weight_by_map: Words | None = None
    retrieval_schedule: ScheduleOptions | None = None
    guidance: Literal["none", "text", "neighbor", "alternate", "interleaved", "joint"] | None = None
    text_guidance_scale: Scale | None = None
    neighbor_guidance_scale: Scale | None = None
    interleave_ratio: Share | None = None
    parallel_share: Share | None = None
    num_inference_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    thresholding: Thresholding | None = None
    colours: Annotated[tuple[Colour, ...], Field(max_length=MAX_COLOURS)] = Field(
        default=(), description="All that the picture may have, as #dd2e44; none: those of the style asked for."
    )
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = None
    eta: Share | None = Field(default=None, description="Of DDIM, how much noise is drawn anew at each step.")
    strength: float | None = Field(
        default=None, gt=0, le=1, description="How far a picture to begin with is noised; 0.8, and 1 with a mask."
    )
    begin_strength: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Below 1: begin with the first neighbor, noised so far; not with an image.",
    )

    def requests(
        self,
        config: Config,
        prompt: str,
        count: int,
        *,
        stages: int | None = None,
        by_hand: Sequence[Neighbor] = (),
        style_images: Sequence[Neighbor] = (),
        image: Pixels | None = None,
        mask: Pixels | None = None,
        keep_pictures: bool = False,
    ) -> list[PictureRequest]:
        """The pictures that are asked for.

        Args:
            config: of the project, for what is left out.
            prompt: the text.
            count: how many.
            stages: of a cascade; None is all.
            by_hand: `neighbors`, decoded.
            style_images: decoded.
            image: (H, W, 3) to begin with; None begins with noise.
            mask: (H, W), white where `image` is drawn anew; None is everywhere.
            keep_pictures: whether the provenance keeps the pixels of the neighbors.

        Raises:
            ValueError: something does not fit.
            ConfigError: a seed is too large.
        """
        given = [one for one in by_hand if not one.negative]
        number = config.retrieval.content if self.num_neighbors is None else self.num_neighbors
        variant: Variant = "given" if given else self.variant or "retrieved"
        if not given and (number == 0 or variant == "none"):
            variant = "none" if not (style_images or self.num_style_neighbors) else "retrieved"
            number = 0
        options = self._options(config) | {"keep_pictures": keep_pictures, "stages": stages}
        if number == 0 and self.num_style_neighbors is None:
            options["num_style_neighbors"] = 0
        if style_images:
            options["style_images"] = list(style_images)
        if image is not None:
            options["strength"] = self.strength
        elif mask is not None:
            raise BodyError(422, "mask: expected an image beside it, of which a part is drawn anew, got none")
        first = PictureRequest(
            prompt=prompt,
            seed=0,
            variant=variant,
            given=given,
            negative=[one for one in by_hand if one.negative],
            exclude=self.exclude,
            num_neighbors=number,
            image=image,
            mask=mask,
            options=options,
        )
        return [replace(first, seed=seed) for seed in choose_seeds(self.seed, count)]

    def _options(self, config: Config) -> dict[str, Any]:
        """Of `RetrievalPipeline.__call__`, but for what differs among the pictures of a batch."""
        sample = config.sample
        named = {"mode": self.guidance} | {
            name: getattr(self, name)
            for name in ("text_guidance_scale", "neighbor_guidance_scale", "interleave_ratio", "parallel_share")
        }
        said = {name: value for name, value in named.items() if value is not None}
        options = retrieval_options(config) | {
            "guidance": replace(Guidance.from_config(sample), **said),
            "num_inference_steps": self.num_inference_steps or sample.num_inference_steps,
        }
        for name in (
            "num_style_neighbors", "style", "weight_by_step", "weight_by_map", "thresholding", "negative_prompt", "eta",
            "begin_strength",
        ):  # fmt: skip
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        if self.colours:
            options["colours"] = self.colours
        if self.where is not None:
            options["where"] = self.where.filter
        if self.retrieval_schedule is not None:
            options["retrieval_schedule"] = RetrievalSchedule(**self.retrieval_schedule.model_dump())
        return options


class PictureOptions(DrawOptions):
    """A text, how many pictures of it, and how they are drawn."""

    prompt: Prompt
    n: int = Field(default=1, ge=1, le=MAX_PICTURES, description="Pictures.")
    size: str = Field(default=AUTO, max_length=20, description="As 64x64; `auto` is the largest that the model draws.")


def stages_of(size: str, sides: Sequence[int]) -> int:
    """How many stages of a cascade draw a size.

    Args:
        size: as 64x64, or `auto` for the largest.
        sides: pixels that each stage draws.

    Raises:
        BodyError: no stage draws that size.
    """
    known = [f"{side}x{side}" for side in sides]
    if size == AUTO:
        return len(known)
    if size not in known:
        raise BodyError(422, f"size: expected {', '.join([AUTO, *known])}, as this model draws, got {size!r}")
    return known.index(size) + 1
