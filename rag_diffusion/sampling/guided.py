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
from rag_diffusion.models.neighbor_kv import NeighborKV
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.attention import AttentionRecorder
from rag_diffusion.sampling.control import Features, SeenNeighbors
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep, combine
from rag_diffusion.sampling.projection import project


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
        seen: SeenNeighbors | None,
        shown: Sequence[bool],
        recorder: AttentionRecorder | None = None,
    ) -> Tensor:
        """The prediction at x_t, in the network's own coordinates.

        Args:
            sample: (B, D, h, w) x_t.
            timestep: ().
            steps: one for each image; without neighbors every guided one is text-enhanced.
            seen: keys and values of the neighbors; None draws without.
            shown: whether each image has a neighbor that counts, negative ones aside.
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
                return self._predict(kind, sample, timestep, self.text, self.null, seen)
            some = None if seen is None else seen.select(rows)
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
        seen: SeenNeighbors | None,
    ) -> Tensor:
        predict, channels = self.generator.predict, sample.shape[1]
        features = None if seen is None else seen.positive
        if step is GuidanceStep.PLAIN:
            return predict(sample, timestep, text, features)
        if step is GuidanceStep.NEIGHBOR:  # the encoder sees the text alone: one pass for both predictions
            instead = None if seen is None else seen.negative
            both = predict(sample, timestep, text, features, and_without=instead is None, and_with=instead)
            full, reduced = both.chunk(2)
        else:
            copies = None if seen is None else self._copies(step, seen)
            times = 3 if step is GuidanceStep.JOINT and not self.guidance.one_scale else 2
            texts, samples = TextFeatures.cat([text, *[null] * (times - 1)]), torch.cat([sample] * times)
            full, *others = predict(samples, timestep, texts, copies).chunk(times)
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

    def _copies(self, step: GuidanceStep, seen: SeenNeighbors) -> Features:
        """The neighbors of each prediction that a text-enhanced or joint step takes, one batch after another."""

        def part(name: str, kv: NeighborKV) -> NeighborKV:
            if step is GuidanceStep.TEXT:
                return NeighborKV.cat([kv, kv if seen.everything is None else seen.everything[name]])
            without = kv.hidden() if seen.negative is None else seen.negative[name]
            return NeighborKV.cat([kv, without] if self.guidance.one_scale else [kv, kv, without])

        return {name: part(name, kv) for name, kv in seen.positive.items()}


def _possible(step: GuidanceStep, has_neighbors: bool) -> GuidanceStep:
    """Without neighbors there is nothing to leave out but the text."""
    return step if has_neighbors or step is GuidanceStep.PLAIN else GuidanceStep.TEXT
