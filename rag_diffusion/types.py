"""The few records that every part of the package exchanges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SPLITS = ("train", "validation", "test")
Precision = Literal["float32", "float16", "int8"]  # in which vectors are kept; int8 with a scale for each vector
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")  # the finest first


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image-text pair of the knowledge base.

    Attributes:
        pair_id: stable id, `<source>/<name>`, e.g. `iconify/twemoji/red-apple`.
        source: where it came from, e.g. `iconify/twemoji` or `folder`.
        entity: what is drawn: Unicode code points (`1f34e`) for emoji, else a user's label or the pair id.
        family: entities that must stay in one split share a family.
        category: coarse class, e.g. `food-drink`.
        style: drawing style, e.g. `twemoji`; `default` where a corpus has no styles.
        title: the entity in words, e.g. `red apple`.
        caption: the text of the pair, never empty.
        licence: SPDX identifier or the user's own words.
        attribution: author of the image.
        image: PNG bytes at the corpus image size, RGB on white.
        original: the image file as it came, of which `image` can be made again at another size; an SVG for a drawing.
            None where it is not kept, or not with the pair.
        split: `train`, `validation` or `test`.
        duplicate_group: pairs with the same value are near-duplicates; unique where there are none.
    """

    pair_id: str
    source: str
    entity: str
    family: str
    category: str
    style: str
    title: str
    caption: str
    licence: str
    attribution: str
    image: bytes
    original: bytes | None
    split: str
    duplicate_group: str


@dataclass(frozen=True, kw_only=True)
class DataSetVersion:
    """A data set of the knowledge base, as it was when something was made from it.

    Attributes:
        name: of the data set; `corpus` is the pipeline's own.
        hash: of its pairs.
        num_pairs: how many they were.
        added: when they were added, in UTC as ISO 8601 has it; empty where nobody noted it.
    """

    name: str
    hash: str
    num_pairs: int
    added: str = ""


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Ranked neighbors of one query; best first.

    Attributes:
        pair_ids: ids of the hits.
        scores: fused retrieval relevance of each hit, higher is better.
        parts: what each similarity gave to each hit, by name.
        raw: the similarities themselves, cosines and BM25, which do not depend on the other candidates.
        probabilities: that each of the first hits shows what was asked for, calibrated, and of all where a threshold
            depends on it; none where nothing is calibrated.
        trouble: why no hit passed `retrieval.thresholds`, in words; empty where one did, or where there was none.
    """

    pair_ids: tuple[str, ...]
    scores: tuple[float, ...]
    parts: dict[str, tuple[float, ...]]
    raw: dict[str, tuple[float, ...]] = field(default_factory=dict)
    probabilities: tuple[float, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One line of data/prompts/*.jsonl.

    Attributes:
        prompt_id: stable id, e.g. `test-0001`.
        split: `validation` or `test`.
        entity, family, title, style: the target, as in `Pair`.
        kind: `caption` (a training template) or `sentence` (a held-out template).
        text: what the model is asked to draw.
        default: whether the default run (a fixed third) scores it.
        seed: seed of the initial noise, the same for every variant.
    """

    prompt_id: str
    split: str
    entity: str
    family: str
    title: str
    style: str
    kind: str
    text: str
    default: bool
    seed: int
