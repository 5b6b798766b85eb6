"""The same picture again, from what its provenance says, or the reasons why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ConfigError, LineageError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, Picture, framed_pixels, neighbors_from
from rag_diffusion.retrieval.query import Searcher
from rag_diffusion.sampling.denoise import make_scheduler
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.provenance import DRAWN_AGAIN, Provenance, Source, from_text, seen_digest
from rag_diffusion.sampling.request import PRECISIONS, SamplingRequest, latents_digest
from rag_diffusion.sampling.schedule import Phase
from rag_diffusion.sampling.style_palettes import as_palette
from rag_diffusion.types import DataSetVersion


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An order for one image, and what is to carry it out."""

    request: SamplingRequest
    generator: Generator
    scheduler: Any
    precision: str


@dataclass(kw_only=True)
class RecordedNeighbors:
    """Neighbors of one image as its provenance has them, phase by phase.

    Attributes:
        lists: of each phase, best first.
        corpus_hash: of where they were searched.
        searched: the data sets of that.
        said: what went wrong then.
    """

    lists: Sequence[list[Neighbor]]
    corpus_hash: str
    searched: tuple[DataSetVersion, ...]
    said: tuple[str, ...]
    _next: int = field(default=1)

    @property
    def corpus_hashes(self) -> list[str]:
        """Of the one image."""
        return [self.corpus_hash]

    @property
    def data_sets(self) -> list[tuple[DataSetVersion, ...]]:
        """Of the one image."""
        return [self.searched]

    @property
    def trouble(self) -> list[tuple[str, ...]]:
        """Of the one image."""
        return [self.said]

    def first(self) -> list[list[Neighbor]]:
        """At the first step."""
        return [list(self.lists[0]) if self.lists else []]

    def again(self, pixels: Pixels) -> list[list[Neighbor]]:
        """Neighbors in the next phase, whatever the `pixels` of the image so far."""
        self._next += 1
        return [list(self.lists[self._next - 1])]


def make_plan(
    origin: Provenance,
    generator: Generator,
    retriever: Searcher | None,
    given: Sequence[Neighbor],
    latents: Tensor | None,
    image: Picture | None,
) -> Plan:
    """How to draw an image again.

    Args:
        origin: its provenance.
        generator: what is to draw it.
        retriever: has its neighbors; None where they come otherwise.
        given: neighbors by hand.
        latents: (1, D, h, w) initial noise, where it was given by hand.
        image: what it began with.

    Raises:
        LineageError: it cannot be drawn again, with the reasons.
    """
    reasons = _reasons(origin, generator, latents)
    generator = _at_work(origin.settings, generator)
    neighbors: dict[str, Neighbor] = {}
    for source in origin.neighbors:
        neighbor = _neighbor(source, generator.size, given, retriever)
        if isinstance(neighbor, str):
            reasons.append(neighbor)
        else:
            neighbors[source.pair_id] = neighbor
    begin = _begin(origin, generator.size, image)
    if isinstance(begin, str):
        reasons.append(begin)
    if reasons or isinstance(begin, str):
        raise LineageError(f"redraw: expected all that decided the picture, but {'; '.join(reasons)}")
    settings, seed = origin.settings, origin.seed
    assert seed is not None
    request = SamplingRequest(
        prompts=[origin.prompt],
        source=RecordedNeighbors(
            lists=[[neighbors[name] for name in phase.pair_ids] for phase in origin.phases],
            corpus_hash=origin.corpus_hash,
            searched=origin.data_sets,
            said=tuple(settings.get("trouble", ())),
        ),
        phases=lambda num_steps: [
            Phase(start=phase.start, count=None, query=number > 0) for number, phase in enumerate(origin.phases)
        ],
        guidance=_guidance(origin),
        num_inference_steps=settings["num_inference_steps"],
        seeds=[seed],
        noise=settings["noise"],
        latents=latents,
        pictures=begin,
        strength=settings.get("strength", 1.0),
        begin_strength=settings.get("begin_strength", 1.0),
        masks=from_text(settings["mask"])[None, ..., 0] if "mask" in settings else None,
        negative_prompts=[settings["negative_prompt"]] if "negative_prompt" in settings else None,
        eta=settings.get("eta", 0.0),
        timesteps=settings.get("timesteps"),
        sigmas=settings.get("sigmas"),
        thresholding=[settings["thresholding"]],
        palettes=[as_palette(settings["colours"])] if "colours" in settings else (),
        keep=any(source.image for source in origin.neighbors),
    )
    return Plan(
        request=request,
        generator=generator,
        scheduler=_scheduler(settings, generator),
        precision=PRECISIONS[settings["precision"]],
    )


def _at_work(settings: dict[str, Any], generator: Generator) -> Generator:
    """The generator for the size and the options that a drawing had."""
    height, width = settings.get("size", (None, None))
    scale = {"scale": settings["lora_scale"]} if "lora_scale" in settings else None
    return generator.for_drawing(height, width, settings.get("clip_skip"), scale)


def _reasons(origin: Provenance, generator: Generator, latents: Tensor | None) -> list[str]:
    """Why a generator cannot draw it; empty where it can."""
    settings = origin.settings
    if origin.version not in DRAWN_AGAIN or origin.seed is None:
        return [
            f"its provenance is of version {origin.version}, which does not tell all of it; it needs {DRAWN_AGAIN[0]}"
        ]
    reasons = []
    if origin.model_hash != generator.fingerprint:
        reasons.append(
            f"it was drawn by model {origin.model_hash[:12] or 'without a hash'}, and this is "
            f"{generator.fingerprint[:12] or 'one without a hash'}; load that one"
        )
    if settings["image_size"] != generator.image_size:
        reasons.append(f"it was drawn at {settings['image_size']} px, and this model draws {generator.image_size}")
    weights = str(generator.backbone.dtype).removeprefix("torch.")
    if settings["weights"] != weights:
        reasons.append(f"the weights were {settings['weights']}, and are {weights}; set torch_dtype")
    if settings.get("changed_by_callback"):
        reasons.append("a callback changed it on the way, and nobody knows how")
    if "image_conditions" in settings:
        reasons.append("an IP-Adapter or a ControlNet saw pictures that its provenance does not keep")
    if by_hand := [name for name in settings if name.endswith("prompt_embeds")]:
        reasons.append(f"it was drawn from {', '.join(by_hand)} given by hand")
    if settings.get("interrupted"):
        reasons.append("it was interrupted before its last step")
    if "latents" in settings and (latents is None or latents_digest(latents[0]) != settings["latents"]):
        reasons.append(f"it began with noise given by hand, of hash {settings['latents']}; give it by latents=")
    return reasons


def _neighbor(
    source: Source, size: tuple[int, int], given: Sequence[Neighbor], retriever: Searcher | None
) -> Neighbor | str:
    """A neighbor as it was, or why it cannot be had."""
    names = ("pair_id", "source", "licence", "attribution", "score", "weight", "role", "weight_by_step",
             "weight_by_map", "fit_mask", "negative")  # fmt: skip
    facts = {name: getattr(source, name) for name in names}
    facts["mask"] = from_text(source.mask)[..., 0] if source.mask else None
    if source.image:  # stands in its mask already
        return Neighbor(
            image=from_text(source.image),
            caption=source.caption,
            **facts | {"fit_mask": facts["fit_mask"] and not source.mask},
        )
    candidates = [*given, *_from(retriever, source.pair_id)]
    for candidate in candidates:
        neighbor = Neighbor(image=candidate.image, caption=candidate.caption, **facts)
        if seen_digest(neighbor.pixels(size), neighbor.caption) == source.digest:
            return neighbor
    what = "is another one now" if candidates else "is not there"
    name = f"{source.pair_id} ({source.caption!r})"
    return (
        f"its neighbor {name} {what}; give it by neighbors=, or open its knowledge base: `rag-diffusion lineage` says "
        "which version of it that was and how to have it back"
    )


def _from(retriever: Searcher | None, pair_id: str) -> list[Neighbor]:
    if retriever is None:
        return []
    pairs = retriever.corpus
    try:
        return neighbors_from(pairs, [pair_id])
    except LineageError:
        return []


def _begin(origin: Provenance, size: tuple[int, int], image: Picture | None) -> Pixels | str | None:
    """What it began with, (1, H, W, 3), or why that cannot be had; None where it began with noise."""
    digest = origin.settings.get("begin")
    if digest is None:
        return None
    if "begin_image" in origin.settings:
        return from_text(origin.settings["begin_image"])[None]
    pixels = None if image is None else framed_pixels(image, size)
    if pixels is None or seen_digest(pixels, "") != digest:
        return f"it began with a picture of hash {digest}; give it by image="
    return pixels[None]


def _scheduler(settings: dict[str, Any], generator: Generator) -> Any:
    made = make_scheduler(settings["scheduler"], generator.schedule)
    unusual = settings["scheduler_config"]
    config = dict(made.config) | unusual
    config["_use_default_values"] = [key for key in config.get("_use_default_values", []) if key not in unusual]
    try:
        return type(made).from_config(config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"redraw: expected a scheduler by {settings['scheduler_config']}, got {error}") from None


def _guidance(origin: Provenance) -> Guidance:
    """That of a drawing; until version 4 joint guidance had the scale of the text for both conditions."""
    guidance = Guidance(**origin.settings["guidance"])
    if guidance.mode == "joint" and origin.version < 5:
        return replace(guidance, neighbor_guidance_scale=guidance.text_guidance_scale)
    return guidance
