"""The guided prediction of a batch whose images may take different steps.

Images of one kind of step go together, so that an image costs what its step costs: eps_n runs the encoder once for both
of its predictions, eps_p twice, eps_j three times, a plain step runs everything once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_attention import NeighborKV
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.attention import AttentionRecorder
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep, combine
from rag_diffusion.sampling.projection import project

Features = dict[str, NeighborKV]


@dataclass(frozen=True, kw_only=True)
class GuidedPrediction:
    """Predictions for B images.

    Attributes:
        generator: the network.
        guidance: scales.
        text, null: features of the B prompts, and of as many empty ones.
    """

    generator: Generator
    guidance: Guidance
    text: TextFeatures
    null: TextFeatures

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        steps: Sequence[GuidanceStep],
        features: Features | None,
        shown: Sequence[bool],
        recorder: AttentionRecorder | None = None,
    ) -> Tensor:
        """The prediction at x_t, in the network's own coordinates.

        Args:
            sample: (B, D, h, w) x_t.
            timestep: ().
            steps: one for each image; without neighbors every guided one is text-enhanced.
            features: keys and values of the neighbors; None draws without.
            shown: whether each image has a neighbor.
            recorder: told which images the next calls draw.

        Returns:
            (B, D, h, w) float32, or 2D channels, the second half of them the learned variance.
        """
        possible = [_possible(step, there) for step, there in zip(steps, shown, strict=True)]
        kinds = sorted(set(possible), key=lambda step: step.value)
        parts = {}
        for kind in kinds:
            rows = torch.tensor([row for row, step in enumerate(possible) if step is kind], device=sample.device)
            if recorder is not None:
                recorder.expect(rows)
            if len(kinds) == 1:
                return self._predict(kind, sample, timestep, self.text, self.null, features)
            some = None if features is None else {name: kv.select(rows) for name, kv in features.items()}
            parts[kind] = rows, self._predict(kind, sample[rows], timestep, self.text[rows], self.null[rows], some)
        first = next(iter(parts.values()))[1]
        result = first.new_empty(len(sample), *first.shape[1:])
        for rows, part in parts.values():
            result[rows] = part
        return result

    def _predict(
        self,
        step: GuidanceStep,
        sample: Tensor,
        timestep: Tensor,
        text: TextFeatures,
        null: TextFeatures,
        features: Features | None,
    ) -> Tensor:
        predict, channels = self.generator.predict, sample.shape[1]
        if step is GuidanceStep.PLAIN:
            return predict(sample, timestep, text, features)
        if step is GuidanceStep.NEIGHBOR:  # the encoder sees the text alone: one pass for both predictions
            full, reduced = predict(sample, timestep, text, features, and_without=True).chunk(2)
        else:
            hide = (
                [step is GuidanceStep.JOINT] if step is GuidanceStep.TEXT or self.guidance.one_scale else [False, True]
            )
            copies = None if features is None else {name: _copies(kv, hide) for name, kv in features.items()}
            texts, samples = TextFeatures.cat([text, *[null] * len(hide)]), torch.cat([sample] * (1 + len(hide)))
            full, *others = predict(samples, timestep, texts, copies).chunk(1 + len(hide))
            reduced = others[0]
        mean = full[:, :channels]
        guided = combine(mean, reduced[:, :channels], self.guidance.scale(step))
        if (
            step is GuidanceStep.JOINT and not self.guidance.one_scale
        ):  # others[0] is without text, others[1] without both
            without_text, without_both = (one[:, :channels] for one in others)
            guided += combine(without_text, without_both, self.guidance.neighbor_guidance_scale) - without_text
        kind, alpha = self.generator.prediction_type, self.generator.alphas_cumprod(timestep)
        guided = project(kind, sample, mean, guided, alpha, self.guidance.parallel_share)
        return torch.cat([guided, full[:, channels:]], dim=1)  # a learned variance is not guided


def _copies(features: NeighborKV, hide: Sequence[bool]) -> NeighborKV:
    """The batch once as it is, and once more for each of `hide`, without neighbors where it says so."""
    return NeighborKV.cat([features, *(features.hidden() if one else features for one in hide)])


def _possible(step: GuidanceStep, has_neighbors: bool) -> GuidanceStep:
    """Without neighbors there is nothing to leave out but the text."""
    return step if has_neighbors or step is GuidanceStep.PLAIN else GuidanceStep.TEXT
