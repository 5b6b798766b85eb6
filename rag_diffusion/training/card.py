"""The card of a generator: what it was trained on, for how long, how well, and what it must never have seen."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.store.clips import Clips
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.loop import TrainResult

CARD = "card.json"
_BASE_FIELDS = ("name", "training_data", "corpus_hash", "steps", "images_seen", "hours", "neighbor_gain")


def make_card(
    corpus: Corpus,
    pair_ids: Iterable[str],
    result: TrainResult,
    settings: dict[str, Any],
    *,
    base: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Facts about trained weights, JSON-able.

    Args:
        corpus: the training corpus.
        pair_ids: pairs that were targets.
        result: of the training loop.
        settings: the configuration of the run.
        base: card of the weights it started from; its train entities count as seen.

    Returns:
        What the weights have seen, and how they were made.
    """
    rows = corpus.rows(pair_ids)
    seen = set(corpus.cells("entity", rows)) | set(base["train_entities"] if base else [])
    return {
        "corpus_hash": corpus.hash,
        "train_pairs": len(rows),
        "train_entities": sorted(seen),
        "train_families": sorted(set(corpus.cells("family", rows)) | set(base["train_families"] if base else [])),
        "train_licences": dict(sorted(Counter(corpus.cells("licence", rows)).items())),
        "steps": result.losses[-1][0] if result.losses else 0,
        "images_seen": result.images_seen,
        "hours": round(result.seconds / 3600, 3),
        "hardware": _hardware(result.generator.device),
        "processes": result.processes,
        "parameters": sum(parameter.numel() for parameter in result.generator.unet.parameters()),
        "loss_curve": _thinned(result.losses),
        "neighbor_gain": _thinned_rows(result.gains),
        "settings": settings,
        "torch": torch.__version__,
        "base": None if base is None else brief(base),
    }


def make_clips_card(
    clips: Clips,
    result: TrainResult,
    settings: dict[str, Any],
    *,
    base: dict[str, Any],
    changed: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    """Facts about changes that were trained on clips, JSON-able.

    Args:
        clips: those of the train split were targets.
        result: of the training loop.
        settings: the configuration of the run.
        base: card of the weights that are changed; its train entities count as seen.
        changed: the changes by name.

    Returns:
        What they have seen, and how they were made.
    """
    seen = clips.of("train")
    return {
        "clips_hash": clips.hash,
        "train_clips": len(seen),
        "train_entities": sorted({clip.entity for clip in seen} | set(base["train_entities"])),
        "train_families": sorted({clip.family for clip in seen} | set(base["train_families"])),
        "train_licences": dict(sorted(Counter(clip.licence for clip in seen).items())),
        "steps": result.losses[-1][0],
        "images_seen": result.images_seen,
        "hours": round(result.seconds / 3600, 3),
        "hardware": _hardware(result.generator.device),
        "changed_parameters": sum(value.numel() for value in changed.values()),
        "loss_curve": _thinned(result.losses),
        "validation": _thinned_rows(result.gains),
        "settings": settings,
        "torch": torch.__version__,
        "base": brief(base),
    }


def brief(card: dict[str, Any]) -> dict[str, Any]:
    """What the card of weights that were made of others says of these, whose own is `card`."""
    return {key: card[key] for key in _BASE_FIELDS if key in card}


def card_of_published(name: str) -> dict[str, Any]:
    """The card of base `name`, a folder or hub name, that somebody else has trained: nobody knows what it has seen."""
    return {"name": name, "training_data": "unknown", "train_entities": [], "train_families": []}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `card` as card.json into `folder`, which exists."""
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card.json of a model's `folder`.

    Raises:
        ModelError: there is none.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text())
        return card
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / CARD}: expected the card of the weights, got {error}; restore it: "
            "without it nobody knows what they have seen"
        ) from None


def refuse_seen(card: dict[str, Any], corpus: Corpus, what: str) -> None:
    """Refuse weights that have been trained on an entity of a family in the test or validation split.

    Args:
        card: of the weights.
        corpus: whose split it is.
        what: the weights, as a message names them.

    Raises:
        LineageError: they have.
    """
    families = dict(zip(corpus.column("entity"), corpus.column("family"), strict=True))
    held_out = np.flatnonzero(corpus.column("split") != "train")
    held_out_pairs = list(zip(corpus.cells("entity", held_out), corpus.cells("family", held_out), strict=True))
    seen_families = {families[entity] for entity in card["train_entities"] if entity in families}
    leaked_families = {family for _, family in held_out_pairs} & seen_families
    leaked = sorted({entity for entity, family in held_out_pairs if family in leaked_families})
    if leaked:
        raise LineageError(
            f"{what}: expected weights that have never seen a held-out entity, but {len(leaked_families)} families "
            f"of the validation or test split were trained on, e.g. {leaked[:5]}; train the base on this corpus' train "
            "split, or restore the split"
        )


def _thinned(losses: list[tuple[int, float]], points: int = 60) -> list[list[float]]:
    """The loss curve as means over equal stretches: [[last step, mean loss], ...]."""
    size = max(1, len(losses) // points)
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 5)] for part in parts]


def _thinned_rows(rows: list[dict[str, float]], count: int = 20) -> list[dict[str, float]]:
    """About so many rows and the last one; one with scores of drawings is never left out."""
    every = max(1, len(rows) // count)
    last = len(rows) - 1
    return [row for number, row in enumerate(rows) if number % every == 0 or number == last or "joint" in row]


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
