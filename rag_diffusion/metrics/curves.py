"""Curves of joint accuracy on validation prompts, one setting at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_diffusion.config import Config
from rag_diffusion.metrics.validation_prompts import ValidationPrompts

Curve = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Joint accuracy on validation prompts by one setting at a time; everything else as in params.yaml."""

    root: Path
    config: Config

    def measure(self) -> dict[str, dict[str, Curve]]:
        """{what varies: {variant: {its value: interval}}}."""
        prompts = ValidationPrompts.open(self.root, self.config, self.config.evaluate.curve_prompts)
        settings = self.config.evaluate
        most = self.config.retrieval.content

        def curve(variant: str, points: Mapping[str, Config]) -> Curve:
            return {name: prompts.accuracies(config, variant)["joint"] for name, config in points.items()}

        counts = {str(k): self._with(num_neighbors=k) for k in range(1, most + 1)}
        text = {f"{scale:g}": self._with(text_guidance_scale=scale) for scale in settings.curve_text_scales}
        near = {f"{scale:g}": self._with(neighbor_guidance_scale=scale) for scale in settings.curve_neighbor_scales}
        kinds = {mode: self._with(guidance=mode) for mode in ("none", "text", "neighbor", "interleaved", "alternate")}
        none = curve("none", {"0": self._with()})
        return {
            "number of neighbors": {"retrieved": none | curve("retrieved", counts), "oracle": curve("oracle", counts)},
            "text guidance": {"retrieved": curve("retrieved", text)},
            "neighbor guidance": {"retrieved": curve("retrieved", near)},
            "guidance": {"retrieved": curve("retrieved", kinds | {"joint": self._with(guidance="joint")})},
        }

    def _with(self, num_neighbors: int | None = None, **sample: Any) -> Config:
        retrieval = {} if num_neighbors is None else {"content": num_neighbors}
        return self.config.model_copy(
            update={
                "sample": self.config.sample.model_copy(update=sample),
                "retrieval": self.config.retrieval.model_copy(update=retrieval),
            }
        )
