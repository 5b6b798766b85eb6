"""What the stages `baselines` and `score` share: the opened inputs, the judge, the form of the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.arrays import Doubles, Floats, Ints
from rag_diffusion.config import Config
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.extractors import EmbeddedExtractor, Extractor, make_extractor
from rag_diffusion.metrics.judge import METRICS, Judge, Verdicts, hidden_styles, why_not_judged
from rag_diffusion.metrics.own import Agree, dual_encoder_agreement, own_table
from rag_diffusion.metrics.report import (
    accuracy_table,
    by_kind,
    differences,
    distance_table,
    merge,
    notes,
    unanswered,
    unjudged_table,
)
from rag_diffusion.metrics.ruler.entity import MIN_PROTOTYPE_STYLES, Prototypes
from rag_diffusion.metrics.ruler.store import Looks, Ruler, load_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.metrics.variants import Variant, real_rows
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

_LOG = logging.getLogger(__name__)


def entity_bootstrap(prompts: Sequence[Prompt], config: Config) -> ClusterBootstrap:
    """Over the entities of `prompts`, as `config.score` says."""
    return ClusterBootstrap([prompt.entity for prompt in prompts], draws=config.score.bootstrap_draws, seed=config.seed)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that scoring reads.

    Attributes:
        config: parameters of the run.
        corpus: what the prompts and neighbors are of.
        prompts: that the run draws.
        all_prompts: every one of their split.
        table: neighbors of all prompts.
        ruler: fixed scorers of entity and style.
        trunk: that they look through.
        extractor: of the features that distances are measured on.
        reason: why entity and style cannot be judged on this corpus, None if they can.
        bootstrap: over the entities of the prompts.
        agree: cosines of images and texts by the dual encoder, for a corpus that cannot be judged.
    """

    config: Config
    corpus: Corpus
    prompts: list[Prompt]
    all_prompts: list[Prompt]
    table: NeighborTable
    ruler: Ruler
    trunk: Trunk
    extractor: Extractor
    reason: str | None
    bootstrap: ClusterBootstrap
    agree: Agree

    @classmethod
    def open(cls, root: Path, config: Config) -> Bench:
        """Open and check corpus, prompts, neighbors, ruler and extractor of the project at `root`, as `config` says.

        Raises:
            LineageError: they do not belong together, or a target is among its neighbors.
            ModelError: the ruler is damaged, or the extractor cannot be had.
        """
        corpus = Corpus.open(root / layout.CORPUS)
        which = config.sample.prompts
        prompts = load_prompts(root, which, corpus)
        all_prompts = load_prompts(root, "validation" if which == "validation" else "all", corpus)
        table = NeighborTable.open(root / layout.NEIGHBORS, corpus)
        check_exclusions(table, corpus, all_prompts)
        ruler = load_ruler(root / layout.RULER)
        trunk = Trunk(ruler.image_size)
        return cls(
            config=config, corpus=corpus, prompts=prompts, all_prompts=all_prompts, table=table, ruler=ruler,
            trunk=trunk, extractor=make_extractor(config.score, trunk),
            reason=why_not_judged(corpus, prompts, ruler), bootstrap=entity_bootstrap(prompts, config),
            agree=dual_encoder_agreement(root / layout.ENCODER, config.device),
        )  # fmt: skip

    def with_prototypes(self) -> Bench:
        """The same without the prompts whose neighbors leave too few styles for prototypes; those are named.

        Which neighbors are found for a prompt, and so in which styles, may differ by a pair from machine to machine.
        """
        styles = set(self.corpus.column("style")[self.candidates])
        left_out = [
            prompt.prompt_id
            for prompt in self.prompts
            if len(styles - hidden_styles(prompt, self.table.prompts[prompt.prompt_id], self.corpus))
            < MIN_PROTOTYPE_STYLES
        ]
        if not left_out:
            return self
        _LOG.warning(
            "%d of %d prompts are left out, since their neighbors leave fewer than %d styles for prototypes: %s",
            len(left_out), len(self.prompts), MIN_PROTOTYPE_STYLES, ", ".join(left_out),
        )  # fmt: skip
        prompts = [prompt for prompt in self.prompts if prompt.prompt_id not in left_out]
        return replace(self, prompts=prompts, bootstrap=self.bootstrap_of(prompts))

    def bootstrap_of(self, prompts: Sequence[Prompt]) -> ClusterBootstrap:
        """Over the entities of other `prompts`, with as many draws and the same seed."""
        return entity_bootstrap(prompts, self.config)

    @property
    def candidates(self) -> Ints:
        """Corpus rows of the split of the prompts: their entities are the candidates of the entity scorer."""
        return np.flatnonzero(self.corpus.table["split"] == self.prompts[0].split)

    def judge(self, features: Doubles, prompts: list[Prompt] | None = None) -> Judge:
        """The judge of these prompts, by default of the run's.

        Args:
            features: (n, k) entity features of the images in `candidates`.
            prompts: other prompts of the same split.
        """
        prompts = self.prompts if prompts is None else prompts
        hidden = [hidden_styles(prompt, self.table.prompts[prompt.prompt_id], self.corpus) for prompt in prompts]
        return Judge(self.ruler, prompts, self.prototypes(features), hidden)

    def prototypes(self, features: Doubles) -> Prototypes:
        """Of the candidate entities, from entity `features` (n, k) of the images in `candidates`."""
        drawn = self.corpus.table.iloc[self.candidates]
        return Prototypes(features, drawn["entity"].tolist(), drawn["style"].tolist())

    def report(
        self,
        variants: Mapping[str, Variant],
        verdicts: Mapping[str, Verdicts],
        absent: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The report without the checks: the table, differences, kinds of prompt, and what it was made from.

        Args:
            variants: images by name; what has no neighbors for a prompt has no image for it.
            verdicts: on them; empty where nothing can be judged.
            absent: variants that cannot be, and why.

        Returns:
            JSON-able; `variants` is the table.
        """
        features = {name: self._features(variant) for name, variant in variants.items()}
        answers = {name: variant.answers for name, variant in variants.items()}
        distances = distance_table(features, self.extractor.frechet_name, self.bootstrap, answers)
        distances = {name: row | {"num_images": len(answers[name])} for name, row in distances.items()}
        facts = self._facts(answers, absent or {})
        facts["notes"] = notes(distances, self.extractor.frechet_name, facts["absent"], facts["without_neighbors"])
        if self.reason is not None:
            texts = [prompt.text for prompt in self.prompts]
            own = own_table(variants, features, texts, self.bootstrap, self.agree)
            chance = {"own_real_nearest": round(1 / len(self.prompts), 6)}
            table = merge(unjudged_table(list(distances), self.reason), own, distances)
            return {"variants": table, "chance": chance} | facts
        kinds = by_kind(verdicts, self.prompts, self.bootstrap_of)
        table = merge(accuracy_table(verdicts, self.bootstrap), distances)
        return {"variants": table, "differences": differences(verdicts, self.bootstrap), "by_kind": kinds} | facts

    def real_accuracy(self, features: Doubles, looks: Looks) -> dict[str, float]:
        """Accuracy on the real images of all prompts of the split, whatever part of them the run draws.

        Args:
            features: (n, k) entity features of the images in `candidates`.
            looks: at the same images.

        Returns:
            Metric -> share, and `num_images`.
        """
        judge = self.judge(features, self.all_prompts)
        rows = np.searchsorted(self.candidates, real_rows(self.corpus, self.all_prompts))
        verdicts = judge.verdicts(looks.rows(rows))
        scores = {metric: float(verdicts.values(metric).mean()) for metric in METRICS}
        return {"num_images": len(rows)} | scores

    def _facts(self, answers: Mapping[str, Ints], absent: Mapping[str, str]) -> dict[str, Any]:
        """What a report was made from."""
        return {
            "num_prompts": len(self.prompts),
            "num_entities": len({prompt.entity for prompt in self.prompts}),
            "prompts": self.config.sample.prompts,
            "extractor": self.extractor.name,
            "reason": self.reason,
            "bootstrap_draws": self.config.score.bootstrap_draws,
            "corpus_hash": self.corpus.hash,
            "ruler_sha256": self.ruler.sha256,
            "absent": dict(absent),
            "without_neighbors": unanswered(answers, self.prompts),
        }

    def _features(self, variant: Variant) -> Floats:
        """The ruler's trunk has seen every image already; another extractor has not."""
        if isinstance(self.extractor, EmbeddedExtractor):
            return np.asarray(variant.looks.pooled, dtype=np.float32)
        return self.extractor.features(variant.pixels)


def refuse_blunt_ruler(real: dict[str, float] | None, least: float) -> None:
    """Refuse to score with a ruler that does not recognise real test images.

    Args:
        real: accuracy on real test images, by scorer.
        least: what entity and style must reach.

    Raises:
        LineageError: nothing was measured on real images.
        ModelError: one of them does not.
    """
    if real is None:
        raise LineageError(
            f"{layout.BASELINES}: expected accuracies on real test images, got none; run the stage `baselines`"
        )
    if min(real["entity"], real["style"]) < least:
        raise ModelError(
            f"ruler: expected at least {least:.2f} of {real['num_images']} real test images to be recognised, got "
            f"entity {real['entity']:.3f} and style {real['style']:.3f}; scores by it would mean little: make a better "
            "ruler on validation entities (pipelines/ruler), never with generated images in view"
        )
