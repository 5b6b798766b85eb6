"""Orders carried out over the parts of a pipeline, what callbacks are told and may change, drawings made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Picture
from rag_diffusion.sampling.cascade import OnStageStep, execute
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings, settings_told
from rag_diffusion.sampling.execution import Execution
from rag_diffusion.sampling.inputs import Given, by_prompt
from rag_diffusion.sampling.output import RetrievalPipelineOutput
from rag_diffusion.sampling.parts import PipelineParts
from rag_diffusion.sampling.provenance import Provenance, read_provenance
from rag_diffusion.sampling.redraw import make_plan
from rag_diffusion.sampling.request import SamplingRequest
from rag_diffusion.sampling.safety import WATERMARK, finished
from rag_diffusion.sampling.steering import CALLBACK_TENSORS, DrawingState
from rag_diffusion.sampling.style_palettes import StylePalettes, as_palette
from rag_diffusion.sampling.threshold import Thresholding


class DrawingPipeline(PipelineParts):
    """Parts at work; see `RetrievalPipeline` for the arguments."""

    _callback_tensor_inputs = CALLBACK_TENSORS
    _interrupt = False
    _guidance_scale = 1.0
    _num_timesteps = 0
    _found_palettes: StylePalettes | None = None

    @property
    def guidance_scale(self) -> float:
        """Scale of the text in the last drawing, or in the one that is going on."""
        return self._guidance_scale

    @property
    def interrupt(self) -> bool:
        """Whether the last drawing was ended by a callback before its last step."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Calls of the network in the last drawing, or in the one that is going on."""
        return self._num_timesteps

    def _manners(
        self,
        texts: Sequence[str],
        kind: Thresholding,
        style: str | None,
        colours: Sequence[str | Path | Picture] | None,
    ) -> tuple[list[Thresholding], list[Pixels | None]]:
        """Thresholding and palette of an image of each of `texts`, as `RetrievalPipeline.__call__` was asked for.

        Raises:
            ValueError: colours by hand that do not fit.
            DataError: a file is none that is read.
        """
        pixels = self.generator.codec.lossless  # latents are not thresholded
        if colours is not None and (kind != "palette" or not pixels):
            got = f"thresholding={kind!r}" if kind != "palette" else "one that draws latents"
            raise ValueError(f"colours: expected thresholding='palette' and a pixel model, got {got}; leave them out")
        by_hand = None if colours is None else as_palette(colours)
        palettes = self._palettes() if kind == "palette" and pixels and by_hand is None else None
        chosen = [(kind, by_hand) if palettes is None else palettes.choose(text, style) for text in texts]
        return [one for one, _ in chosen], [palette for _, palette in chosen]

    def _palettes(self) -> StylePalettes | None:
        """Of the styles of what is retrieved from, as it is now; None where nothing of it lies here."""
        if self.palettes is not None or self.retriever is None:
            return self.palettes
        try:
            pairs = self.retriever.corpus
        except DataError:  # remote data sets alone
            return None
        if self._found_palettes is None or self._found_palettes.pairs is not pairs:
            self._found_palettes = StylePalettes(pairs=pairs)
        return self._found_palettes

    @torch.no_grad()
    def redraw(
        self,
        what: Provenance | str | Path,
        neighbors: Given | None = None,
        *,
        latents: Tensor | None = None,
        image: Picture | None = None,
    ) -> RetrievalPipelineOutput:
        """Draw an image again: the same within 1e-4 where both are computed in float32, nearly so otherwise.

        It is drawn alone. Beside others in a batch sums are rounded otherwise, which Heun's method alone makes visible:
        it divides by the small sigma of its last step.

        Its neighbors come out of the provenance where it keeps their pixels, else from `neighbors`, else from the
        retriever. Scheduler and precision are those of the provenance.

        Args:
            what: its provenance, or a PNG file that holds it.
            neighbors: those that were given by hand.
            latents: (1, D, h, w), where it was drawn from latents given by hand.
            image: what it began with.

        Returns:
            One image with its provenance.

        Raises:
            LineageError: it cannot be drawn again, with the reasons.
            DataError: the file holds no provenance.
        """
        provenance = what if isinstance(what, Provenance) else read_provenance(Path(what))
        given = [] if neighbors is None else by_prompt(neighbors, [provenance.prompt])[0]
        drew = self.generator
        if self.frames is not None and self.frames.fingerprint == provenance.model_hash:
            drew = self.frames
        plan = make_plan(provenance, drew, self.retriever, given, latents, image)
        further = settings_told(self.stages, provenance.settings.get("stages", ()))
        drawn = self._carry_out(plan.request, plan.generator, plan.scheduler, plan.precision, further)
        return finished(drawn, self.safety_checker, provenance.settings.get(WATERMARK, ""))

    def _carry_out(
        self,
        request: SamplingRequest,
        generator: Generator,
        scheduler: Any,
        precision: str,
        further: Sequence[tuple[CascadeStage, StageSettings]] = (),
        on_step: OnStageStep | None = None,
    ) -> RetrievalPipelineOutput:
        execution = Execution(
            generator=generator,
            scheduler=scheduler,
            precision=precision,
            progress=self._progress,
        )
        found = execute(execution, request, further, on_step)
        self.maybe_free_model_hooks()
        return found

    def _progress(self, total: int) -> Any:
        """A bar for the calls of the network by one stage."""
        self._num_timesteps = total
        return self.progress_bar(total=total)

    def _tell(
        self,
        tell: Callable[..., Any],
        names: Sequence[str] | None,
        state: DrawingState,
        stage: int,
        number: int,
        timestep: Tensor,
        sample: Tensor,
        clean: Tensor,
    ) -> Tensor:
        """Let the caller change x_t, and what the next steps are made with."""
        told = state.tensors(("latents", "pred_original_sample") if names is None else names, sample, clean)
        returned = tell(self, number, timestep, {**told, "stage": stage} if names is None else told) or {}
        state.accept(told, returned, self._guidance_scale)
        state.interrupted |= self._interrupt
        found: Tensor = returned.get("latents", sample)
        return found
