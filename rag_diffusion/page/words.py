"""Provenance in words: what made a picture, from what, under which licences, and whom to credit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.neighbor_control import as_curve, as_mask
from rag_diffusion.page.session import Entry
from rag_diffusion.sampling.credit import NO_LICENCE, credit
from rag_diffusion.sampling.provenance import Source

MASKS = {"everywhere": None, **{name: as_mask(name) for name in ("left", "right", "top", "bottom")}}
CURVES = {"all steps": "constant", "early": "early", "late": "late", "falling": "linear"}
LICENCES = ["CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0", "all rights reserved"]
MAPS = {"both": "both", "style alone": "style", "layout alone": "layout"}


def controls_of(neighbor: Neighbor) -> list[str]:
    """How `neighbor` is used otherwise than usual, in words."""
    sentences = [f"weight {neighbor.weight:g}"] * (neighbor.weight != 1) + ["style neighbor"] * (
        neighbor.role == "style"
    )
    for word, value in (("acts", mask_of(neighbor)), ("steps", curve_of(neighbor)), ("gives", map_of(neighbor))):
        sentences += [f"{word} {value}"] * (value not in ("everywhere", "all steps", "both"))
    return sentences + ["guided away from"] * neighbor.negative


def mask_of(neighbor: Neighbor) -> str:
    """Where `neighbor` acts: a name of `MASKS`, or the sides of its box; `a mask` for one of levels."""
    if isinstance(neighbor.mask, np.ndarray):
        return "a mask"
    sides = neighbor.mask if isinstance(neighbor.mask, tuple) else None
    return next((name for name, box in MASKS.items() if box == sides), ", ".join(f"{side:g}" for side in sides or ()))


def curve_of(neighbor: Neighbor) -> str:
    """When `neighbor` acts: a name of `CURVES`, or `by a curve`."""
    points = as_curve(neighbor.weight_by_step)
    return next((name for name, curve in CURVES.items() if as_curve(curve) == points), "by a curve")


def map_of(neighbor: Neighbor) -> str:
    """At which attended maps `neighbor` acts: a name of `MAPS`, or `by map`."""
    return next((name for name, maps in MAPS.items() if maps == neighbor.weight_by_map), "by map")


def as_box(text: str) -> str | tuple[float, ...] | None:
    """The mask that `text` names: one of `MASKS`, or left, top, right and bottom in shares of the picture.

    Raises:
        ConfigError: it is neither.
    """
    if text in MASKS:
        return None if MASKS[text] is None else text
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise ConfigError(
            f"where it may act: expected {', '.join(MASKS)}, or left, top, right, bottom in shares of the picture, as "
            f"0.2, 0.2, 0.8, 0.8, got {text[:50]!r}"
        ) from None
    return left, top, right, bottom


def percent(share: float) -> str:
    """The share `share` from 0 to 1, as 34 %."""
    return f"{round(100 * share)} %"


def score_of(score: float | None) -> str:
    """The retrieval score `score`, or that there is none."""
    return "by hand" if score is None else f"score {score:.2f}"


def lineage_of(entry: Entry) -> list[str]:
    """How the drawing `entry` came to be, a sentence each."""
    origin = entry.picture.provenance
    settings = origin.settings
    guidance = settings.get("guidance", {})
    size = [settings, *settings.get("stages", ())][-1].get("image_size", "?")
    sentences = [f"Drawn for “{origin.prompt}” from the noise of seed {origin.seed}, {entry.words}."]
    sentences += [f"{entry.lineage}."] * bool(entry.lineage)
    used = [
        f"“{neighbor.caption}” {', '.join(words)}" for neighbor in entry.neighbors if (words := controls_of(neighbor))
    ]
    sentences += [f"Used otherwise than usual: {'; '.join(used)}."] * bool(used)
    sentences.append(
        f"{settings.get('num_inference_steps')} steps of {settings.get('scheduler')}, guidance {guidance.get('mode')} "
        f"(text {guidance.get('text_guidance_scale'):g}, neighbors {guidance.get('neighbor_guidance_scale'):g}), "
        f"{size} × {size} pixels, weights {origin.model_hash[:12] or 'unnamed'}."
    )
    if "begin_strength" in settings:
        sentences.append(f"Begun with its first neighbor, noised {percent(settings['begin_strength'])} of the way.")
    if "colours" in settings:
        sentences.append(f"In the colours {', '.join(settings['colours'])} alone.")
    if origin.data_sets:
        sets = ", ".join(f"{one.name} ({one.num_pairs} pairs, {one.hash[:12]})" for one in origin.data_sets)
        sentences.append(f"Searched in {sets}.")
    sentences += [f"Looked at {_seen(source)}." for source in origin.neighbors]
    if origin.neighbors:
        sentences.append(f"{percent(origin.null_attention)} of the attention went to no neighbor.")
        sentences += credit(origin.neighbors)
    return [*sentences, *map(str, settings.get("trouble", ()))]


def changes(now: Sequence[Neighbor], before: Entry) -> str:
    """What was changed by hand between the drawing `before` and the neighbors `now`, in words."""
    known = {neighbor.name: neighbor for neighbor in before.neighbors}
    sentences = [text for neighbor in now for text in _changed(known.get(neighbor.name), neighbor)]
    return f"Drawn again from picture {before.number}, the same noise" + (
        f"; {', '.join(sentences)}" if sentences else ""
    )


def _changed(before: Neighbor | None, after: Neighbor) -> list[str]:
    if before is None:
        return [f"“{after.caption}” added"]
    if controls_of(before) == controls_of(after) and before.caption == after.caption:
        return []
    return [f"“{after.caption}” {', '.join(controls_of(after)) or 'as usual'}"]


def _seen(source: Source) -> str:
    return (
        f"“{source.caption}” ({source.pair_id}, {source.licence or NO_LICENCE}"
        f"{f', by {source.attribution}' if source.attribution else ''}, {score_of(source.score)}): "
        f"{percent(source.attention)} of the attention"
    )
