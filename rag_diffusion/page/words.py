"""Provenance in words: what made a picture, from what, under which licences, and whom to credit."""

from __future__ import annotations

from collections.abc import Sequence

from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.page.session import Entry
from rag_diffusion.sampling.provenance import Provenance, Source

_NO_LICENCE = "no licence given"


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
    size = settings.get("image_size", "?")
    told = [f"Drawn for “{origin.prompt}” from the noise of seed {origin.seed}, {entry.words}."]
    told += [f"{entry.lineage}."] * bool(entry.lineage)
    told.append(
        f"{settings.get('num_inference_steps')} steps of {settings.get('scheduler')}, guidance {guidance.get('mode')} "
        f"(text {guidance.get('text_guidance_scale'):g}, neighbors {guidance.get('neighbor_guidance_scale'):g}), "
        f"{size} × {size} pixels, weights {origin.model_hash[:12] or 'unnamed'}."
    )
    if origin.data_sets:
        sets = ", ".join(f"{one.name} ({one.num_pairs} pairs, {one.hash[:12]})" for one in origin.data_sets)
        told.append(f"Searched in {sets}.")
    told += [f"Looked at {_seen(source)}." for source in origin.neighbors]
    if origin.neighbors:
        told.append(f"{percent(origin.null_attention)} of the attention went to no neighbor.")
        told.append(credit(origin))
    return [*told, *map(str, settings.get("trouble", ()))]


def credit(origin: Provenance) -> str:
    """Whom a picture of the provenance `origin` owes what: authors and licences of its neighbors, each once."""
    owed = dict.fromkeys(
        f"{source.attribution or source.source or source.pair_id} ({source.licence or _NO_LICENCE})"
        for source in origin.neighbors
    )
    return f"Credit: {'; '.join(owed)}."


def changes(now: Sequence[Neighbor], before: Entry) -> str:
    """What was changed by hand between the drawing `before` and the neighbors `now`, in words."""
    known = {neighbor.name: neighbor for neighbor in before.neighbors}
    told = [text for neighbor in now for text in _changed(known.get(neighbor.name), neighbor)]
    return f"Drawn again from picture {before.number}, the same noise" + (f"; {', '.join(told)}" if told else "")


def _changed(before: Neighbor | None, after: Neighbor) -> list[str]:
    if before is None:
        return [f"“{after.caption}” added"]
    names = {"weight": "weight"}
    return [
        f"{word} of “{after.caption}” {_plain(getattr(after, name))}"
        for name, word in names.items()
        if getattr(after, name) != getattr(before, name)
    ]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seen(source: Source) -> str:
    weight = "" if source.weight == 1 else f", weight {source.weight:g}"
    return (
        f"“{source.caption}” ({source.pair_id}, {source.licence or _NO_LICENCE}"
        f"{f', by {source.attribution}' if source.attribution else ''}, {score_of(source.score)}{weight}): "
        f"{percent(source.attention)} of the attention"
    )
