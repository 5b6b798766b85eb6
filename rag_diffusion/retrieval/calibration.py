"""A calibrated score: the probability that a hit shows what was asked for.

Logistic regression on the features of `evidence`. It is fitted on queries made from things of the corpus: by a caption,
and by the thing's title in a frame that no caption has. Each is searched twice: with its thing in the corpus, but for
the drawing that the text was made from, and without the whole family, as one searches for a name that is not there.
A hit is right where it shows the thing; hits of the same family that show another thing are left out.

The calibration error is that of five-fold cross-validation, families kept together.

Source: Platt, "Probabilistic outputs for support vector machines" (1999); expected calibration error over ten bins of
equal width: Naeini, Cooper, Hauskrecht, AAAI 2015.

Shapes: N pairs, R hits, F features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rag_diffusion.arrays import Doubles, Ints, Strings
from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_write
from rag_diffusion.retrieval.evidence import FEATURES

if TYPE_CHECKING:
    from rag_diffusion.retrieval.retriever import Retriever

CALIBRATION_FILE = "calibration.json"
UNCALIBRATED = "scores are not calibrated: run the stage `index`, or `rag-diffusion kb calibrate`"
MOST_THINGS = 400  # entities that queries are made of
HITS = 6  # judged of each query
BINS = 10
_LEAST_FAMILIES, _LEAST_EACH = 20, 40  # families, and right and wrong hits, below which nothing is fitted
_FOLDS = 5
_RIDGE = 1e-4  # of the mean log loss, on standardised features
_FRAMES = (
    "{title}",
    "a photo of {title}",
    "can you paint {title} for the cover of my book?",
    "{title} in the rain",
    "show {title} on a wall",
    "my friend wants {title}",
    "a card for grandma that has {title} on it",
    "a big {title} under the sun",
    "I saw {title} yesterday at the station",
)
_STYLED_FRAMES = (
    "{title}, like in {style} pictures",
    "my friend wants {title}, {style} please",
    "{style}: {title}",
    "show {title} on a wall in {style} manner",
    "would {title} be nice in {style}?",
)


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Hits whose probability is between two numbers.

    Attributes:
        low, high: those numbers; `high` belongs to the next bin.
        count: of hits.
        probability: their mean probability.
        right: share of them that show what was asked.
    """

    low: float
    high: float
    count: int
    probability: float
    right: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted score, or the reason why there is none.

    Attributes:
        weights: of each feature in the order of `FEATURES`, then of the constant; none where nothing was fitted.
        features: names of the features.
        encoder_hash: of the encoder whose cosines it was fitted on; empty where it is not known.
        corpus_hash: of the pairs that it was fitted on.
        num_queries, num_hits, num_families: what it was fitted on.
        expected_calibration_error: cross-validated, mean distance of probability and share of right hits.
        bins: reliability, cross-validated.
        reason: why nothing was fitted, in words; else empty.
    """

    weights: tuple[float, ...] = ()
    features: tuple[str, ...] = FEATURES
    encoder_hash: str = ""
    corpus_hash: str = ""
    num_queries: int = 0
    num_hits: int = 0
    num_families: int = 0
    expected_calibration_error: float = 0.0
    bins: tuple[ReliabilityBin, ...] = ()
    reason: str = ""

    @property
    def fitted(self) -> bool:
        """Whether it gives probabilities."""
        return bool(self.weights)

    def probabilities(self, features: Doubles) -> Doubles:
        """That each hit shows what was asked for.

        Args:
            features: (R, F) of `Evidence.features`.

        Returns:
            (R,) from 0 to 1.
        """
        return _sigmoid(features @ np.asarray(self.weights[:-1]) + self.weights[-1])

    def save(self, path: Path) -> None:
        """Write it as JSON to `path`, as a whole or not at all; the same calibration gives the same bytes."""
        atomic_write(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, *, encoder_hash: str) -> Calibration:
        """Read what `save` wrote; one that cannot be used has no weights and says why.

        Args:
            path: the file.
            encoder_hash: of the encoder whose cosines are to be judged.

        Raises:
            DataError: the file is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            bins = tuple(ReliabilityBin(**entry) for entry in content.pop("bins"))
            weights, features = tuple(content.pop("weights")), tuple(content.pop("features"))
            calibration = cls(weights=weights, features=features, bins=bins, **content)
        except FileNotFoundError:
            return cls(reason=UNCALIBRATED)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: expected a calibration, got {error!r}; run `rag-diffusion kb calibrate`, or the stage `index`"
            ) from None
        if calibration.fitted and calibration.features != FEATURES:
            return cls(reason=f"{path.name} was fitted on other features; run the stage `index`, or `kb calibrate`")
        if calibration.fitted and calibration.encoder_hash != encoder_hash:
            return cls(reason=f"{path.name} is of another encoder; run the stage `index`, or `kb calibrate`")
        return calibration


def fit_calibration(
    retriever: Retriever, *, splits: Sequence[str] = ("train", "validation"), seed: int = 0, most: int = MOST_THINGS
) -> Calibration:
    """Fit the score on a retriever's own pairs.

    Args:
        retriever: over N pairs; its method decides which hits are judged.
        splits: of the pairs that queries are made of; all are searched.
        seed: of which things and pairs are taken.
        most: things that queries are made of.

    Returns:
        A calibration; without weights and with the reason where the pairs are too few or show one thing each alone.
    """
    queries = _queries(retriever, splits, seed, most)
    families = len(set(queries.family.tolist()))
    if families < _LEAST_FAMILIES:
        return _unfitted(f"expected things of at least {_LEAST_FAMILIES} families, got {families}")
    features, right, family = _judged(retriever, queries)
    wrong_count, right_count = int((right == 0).sum()), int(right.sum())
    if min(wrong_count, right_count) < _LEAST_EACH:
        return _unfitted(
            f"expected at least {_LEAST_EACH} right and wrong hits, got {right_count} right, {wrong_count} wrong ones"
        )
    probabilities = np.empty(len(right))
    names = np.unique(family)
    fold = np.random.default_rng(seed).permutation(len(names))[np.searchsorted(names, family)] % _FOLDS
    for number in range(_FOLDS):
        own = fold == number
        probabilities[own] = _sigmoid(_with_constant(features[own]) @ _fit(features[~own], right[~own]))
    bins = reliability(probabilities, right)
    return Calibration(
        weights=tuple(np.round(_fit(features, right), 9).tolist()),
        corpus_hash=retriever.corpus.hash,
        num_queries=2 * len(queries.texts),
        num_hits=len(right),
        num_families=families,
        expected_calibration_error=calibration_error(bins),
        bins=bins,
    )


def reliability(probabilities: Doubles, right: Doubles) -> tuple[ReliabilityBin, ...]:
    """How often hits are right, by their probability.

    Args:
        probabilities: (R,).
        right: (R,) 1 where a hit shows what was asked, else 0.

    Returns:
        Bins of equal width that have a hit, rising.
    """
    number = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    return tuple(
        ReliabilityBin(
            low=place / BINS,
            high=(place + 1) / BINS,
            count=int(own.sum()),
            probability=round(float(probabilities[own].mean()), 6),
            right=round(float(right[own].mean()), 6),
        )
        for place in range(BINS)
        if (own := number == place).any()
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: distance of probability and share of right hits, mean over the hits of `bins`."""
    total = sum(entry.count for entry in bins)
    apart = sum(entry.count * abs(entry.probability - entry.right) for entry in bins)
    return round(apart / total, 6) if total else 0.0


@dataclass(frozen=True, kw_only=True)
class _Queries:
    """Texts, the entity and family that each is about, and the rows left out with the thing in the corpus or not."""

    texts: list[str]
    entity: Strings
    family: Strings
    present: list[Ints]
    absent: list[Ints]
    entities: Strings  # of all rows
    families: Strings


def _queries(retriever: Retriever, splits: Sequence[str], seed: int, most: int) -> _Queries:
    pairs, rng = retriever.corpus, np.random.default_rng(seed)
    column = {name: pairs.column(name) for name in ("entity", "family", "style", "split")}
    groups = pairs.numbered("duplicate_group")
    own = np.isin(column["split"], splits)
    things = np.unique(column["entity"][own])
    things = rng.permutation(things)[:most]
    by_entity, by_family = _rows_by(column["entity"]), _rows_by(column["family"])
    by_group = _rows_by(groups)
    texts, rows, present, absent = list[str](), list[int](), list[Ints](), list[Ints]()
    for number, thing in enumerate(things.tolist()):
        candidates = by_entity[thing]
        row = int(rng.choice(candidates[own[candidates]]))
        drawings = candidates[column["style"][candidates] == column["style"][row]]
        left_out = np.unique(np.concatenate([by_group[group] for group in np.unique(groups[drawings])]))
        alone = len(np.setdiff1d(candidates, left_out)) == 0
        title, caption, style = (pairs.cells(name, np.asarray([row]))[0] for name in ("title", "caption", "style"))
        words = pairs.style_words.get(style)
        frames = _FRAMES if words is None else _FRAMES + _STYLED_FRAMES
        framed = frames[number % len(frames)].format(title=title or caption, style=words)
        for text in [framed] if alone else [caption, framed]:
            texts.append(text)
            rows.append(row)
            present.append(left_out[:0] if alone else left_out)
            absent.append(by_family[column["family"][row]])
    return _Queries(
        texts=texts,
        entity=column["entity"][rows],
        family=column["family"][rows],
        present=present,
        absent=absent,
        entities=column["entity"],
        families=column["family"],
    )


def _judged(retriever: Retriever, queries: _Queries) -> tuple[Doubles, Doubles, Strings]:
    """Features (R, F) of hits, whether each is right (R,), and the family that its query is about (R,)."""
    vectors = retriever.embed(queries.texts)
    features, right, family = list[Doubles](), list[Doubles](), list[Strings]()
    for left_out in (queries.present, queries.absent):
        rankings = retriever.rank(queries.texts, depth=HITS, exclude=left_out, query_vectors=vectors)
        for number, ranking in enumerate(rankings):
            rows = ranking.rows[:HITS]
            same = queries.entities[rows] == queries.entity[number]
            counted = same | (queries.families[rows] != queries.family[number])
            features.append(retriever.features(queries.texts[number], ranking, HITS)[counted])
            right.append(same[counted].astype(np.float64))
            family.append(np.repeat(queries.family[number : number + 1], int(counted.sum())))
    return np.concatenate(features), np.concatenate(right), np.concatenate(family)


def _fit(features: Doubles, right: Doubles) -> Doubles:
    """Weights of the features and the constant, by Newton's method."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    table = _with_constant((features - mean) / deviation)
    ridge = _RIDGE * len(right) * np.eye(table.shape[1])
    ridge[-1, -1] = 1e-9 * len(right)
    weights = np.zeros(table.shape[1])
    for _ in range(50):
        probabilities = _sigmoid(table @ weights)
        slope = table.T @ (probabilities - right) + ridge @ weights
        step = np.linalg.solve((table * (probabilities * (1 - probabilities))[:, None]).T @ table + ridge, slope)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    plain = weights[:-1] / deviation
    return np.append(plain, weights[-1] - plain @ mean)


def _with_constant(features: Doubles) -> Doubles:
    return np.column_stack([features, np.ones(len(features))])


def _sigmoid(values: Doubles) -> Doubles:
    shares: Doubles = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return shares


def _rows_by(values: Strings | Ints) -> dict[object, Ints]:
    """Rows of each value, rising."""
    names, number = np.unique(values, return_inverse=True)
    order = np.argsort(number, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(number))[:-1])
    return dict(zip(names.tolist(), parts, strict=True))


def _unfitted(reason: str) -> Calibration:
    return Calibration(reason=f"scores are not calibrated: {reason}")
