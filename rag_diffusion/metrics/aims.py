"""What the project wants of the full protocol, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def aims(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Compare the `report` of stage `evaluate` with what the project wants.

    Returns:
        Aim -> {"measured", "aim", "reached"}.
    """
    table, differences, kinds = report["variants"], report["differences"], report["by_kind"]
    placed = report["by_placement"]

    def mean(variant: str, metric: str, variants: Mapping[str, Any] = table) -> float:
        return float(variants[variant][metric]["mean"])

    def share(part: float, whole: float) -> float:
        return round(part / whole, 4) if whole else 0.0

    measured = {
        "retrieved - none, joint, low end": (differences["retrieved-none"]["joint"]["low"], "> 0"),
        "retrieved - copied + palette, joint, low end": (differences["retrieved-copied_snap"]["joint"]["low"], "> 0"),
        "retrieved / real, joint": (share(mean("retrieved", "joint"), mean("real", "joint")), ">= 0.5"),
        "retrieved, style": (mean("retrieved", "style"), ">= 0.6"),
        "random / none, style": (share(mean("random", "style"), mean("none", "style")), ">= 0.8"),
        "sentences / captions, entity": (
            share(mean("retrieved", "entity", kinds["sentence"]), mean("retrieved", "entity", kinds["caption"])),
            ">= 0.8",
        ),
        "moved by 16 px / aligned, gain": (kept(placed, "shift16"), ">= 0.6"),
        "half size / aligned, gain": (kept(placed, "size0.5"), ">= 0.6"),
        "random - none, loss at t = 950": (placed["curve_random_aligned"], "<= 0.004"),
        "two entities, retrieved - none, both, low end": (report["two_entities"]["difference"]["low"], "> 0"),
    }
    if table["none"]["kid"] is not None and table["retrieved"]["kid"] is not None:  # else too few images
        measured["retrieved / none, KID"] = (share(mean("retrieved", "kid"), mean("none", "kid")), "<= 0.5")
    return {
        name: {"measured": value, "aim": aim, "reached": _reached(value, aim)}
        for name, (value, aim) in measured.items()
    }


def kept(placed: Mapping[str, float], placement: str) -> float:
    """Share of the aligned neighbor gain that is left where neighbors stand elsewhere.

    Args:
        placed: the curve of `training.validation.placement_curve`.
        placement: one of its placements, as `shift16`.

    Returns:
        Its gain over that of `aligned`; 0 where that is no gain.
    """
    aligned = -placed["curve_retrieved_aligned"]
    return round(-placed[f"curve_retrieved_{placement}"] / aligned, 4) if aligned > 0 else 0.0


def _reached(value: float, aim: str) -> bool:
    sign, limit = aim.split()
    return {">": value > float(limit), ">=": value >= float(limit), "<=": value <= float(limit)}[sign]
