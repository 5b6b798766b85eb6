"""RetrievalPipeline: prompts in, images and their provenance out; a diffusers DiffusionPipeline.

    neighbors -> f(c_n, 0) once -> T steps of a scheduler over guided predictions -> images

Shapes: B images (prompts x images per prompt, the images of a prompt together), D/h/w the U-Net's input, H/W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rag_diffusion.device import check_precision
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator, save_generator
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.sampling.conditioning import Conditioning
from rag_diffusion.sampling.denoise import (
    DEFAULT_SCHEDULER,
    SCHEDULERS,
    check_fits,
    make_scheduler,
    solver_steps,
    start_at,
)
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.inputs import (
    Exclude,
    Given,
    Pictures,
    as_generators,
    as_pictures,
    as_prompts,
    check_counts,
    coins,
    initial_noise,
    reproducing_seeds,
)
from rag_diffusion.sampling.loop import Loop
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.output import (
    OutputType,
    RetrievalPipelineOutput,
    check_output_type,
    enough_memory,
    to_output,
)
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.source import NeighborSource
from rag_diffusion.sampling.threshold import Thresholding, check_thresholding
from rag_diffusion.spans import span

if TYPE_CHECKING:  # drawing with neighbors by hand needs neither faiss nor rank_bm25
    from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
    from rag_diffusion.retrieval.retriever import Retriever

OnStep = Callable[["RetrievalPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


class RetrievalPipeline(DiffusionPipeline):
    """Draws images conditioned on a prompt and on image-text pairs.

    Args:
        generator: U-Net, codec, text encoder and variance schedule.
        retriever: finds neighbors for prompts; a knowledge base finds them in all its data sets, remote ones too, as
            they are at each drawing; without one they are given by hand.
        scheduler: one of `denoise.SCHEDULERS`, by class name; later `Other.from_config(pipe.scheduler.config)`.
        precision: `fp32` computes as the weights are, `bf16`, `fp16`, or `auto`: bfloat16 where the hardware is fast
            at it.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"

    def __init__(
        self,
        generator: Generator,
        retriever: Retriever | KnowledgeBase | None = None,
        scheduler: str = DEFAULT_SCHEDULER,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        check_precision(precision)
        self.generator, self.retriever, self.precision = generator, retriever, precision
        self.register_modules(unet=generator.unet, scheduler=make_scheduler(scheduler, generator.schedule))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        retriever: Retriever | KnowledgeBase | str | Path | None = None,
        *,
        scheduler: str | None = None,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> RetrievalPipeline:
        """Read a generator's folder, or a published Stable Diffusion (XL) or DeepFloyd IF pipeline.

        Args:
            pretrained_model_name_or_path: folder, or hub name of a published pipeline.
            retriever: as in the constructor, or the project's root: its corpus and what `rag-diffusion kb add` has
                added, remote data sets among it. It is not part of the generator's folder.
            scheduler: as in the constructor; None is the one that was saved, where it fits.
            precision: as in the constructor.
            device: where the weights are to live.
            **options: of `RetrievalUNet.from_pretrained` for a published pipeline: `neighbor_skips`, `torch_dtype`, ...

        Raises:
            ModelError: as `load_generator`.
            DataError, LineageError: as `open_retriever`.
        """
        if isinstance(retriever, str | Path):
            from rag_diffusion.knowledge.knowledge_base import open_retriever

            retriever = open_retriever(retriever)
        generator = load_generator(pretrained_model_name_or_path, device, **options)
        saved = generator.saved_scheduler if generator.saved_scheduler in SCHEDULERS else DEFAULT_SCHEDULER
        return cls(generator, retriever, scheduler or str(saved), precision)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write generator and scheduler; `from_pretrained` reads them again."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_generator(self.generator, folder, self.scheduler)

    @property
    def unet(self) -> RetrievalUNet:
        """The generator's; may be replaced, by a compiled one for example."""
        return self.generator.unet

    @unet.setter
    def unet(self, unet: RetrievalUNet) -> None:
        self.generator.unet = unet

    @property
    def components(self) -> dict[str, Any]:
        """The parts that hooks act on."""
        published = self.generator.published
        parts = {} if published is None else dict(published.components)
        return parts | {"unet": self.unet, "scheduler": self.scheduler}

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes."""
        return self.generator.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the U-Net's weights."""
        found: torch.dtype = self.unet.dtype
        return found

    def to(self, device: torch.device | str, *, silence_dtype_warnings: bool = False) -> RetrievalPipeline:
        """Move every part. Weights of another type are read so: `from_pretrained(..., torch_dtype=...)`.

        Args:
            device: where to.
            silence_dtype_warnings: diffusers' own hooks say it; without effect.

        Raises:
            ValueError: it is no device.
        """
        if isinstance(device, torch.dtype):
            raise ValueError(f"to: expected a device, got {device}; use precision, or torch_dtype in from_pretrained")
        self.generator.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        neighbors: Given | None = None,
        *,
        num_neighbors: int = 3,
        num_style_neighbors: int = 0,
        style: str | None = None,
        exclude: Exclude = None,
        retrieval_schedule: RetrievalSchedule | None = None,
        guidance: Guidance | None = None,
        num_inference_steps: int = 20,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        image: Pictures | None = None,
        strength: float = 0.8,
        thresholding: Thresholding = "static",
        output_type: OutputType = "pil",
        callback_on_step_end: OnStep | None = None,
    ) -> RetrievalPipelineOutput:
        """Draw.

        Args:
            prompt: a text or P texts.
            neighbors: by hand, for all prompts, or a list for each of P prompts; None asks the retriever.
            num_neighbors: pairs asked of the retriever for each prompt; 0 draws without. Fewer come where the knowledge
                base has fewer. Without effect on neighbors given by hand.
            num_style_neighbors: pairs that show other things in the manner asked for, for a generator that knows roles.
            style: that manner, a style of the knowledge base; None takes the one that a prompt names.
            exclude: for each prompt, pair ids that must not be retrieved.
            retrieval_schedule: how neighbors change over the steps; None keeps them.
            guidance: None is `Guidance()`. An image without neighbors takes a text-enhanced step for every guided one.
            num_inference_steps: T.
            num_images_per_prompt: B / P.
            generator: one for each of B images, whose image then depends on nothing else in the batch; or one for all;
                None draws seeds, which the provenance holds.
            latents: (B, D, h, w) initial noise in place of the generators' own.
            image: a picture, or one for each of P prompts, to begin with instead of noise: PIL or uint8, any size.
            strength: how far it is noised, the share of the T steps that are taken; without effect without `image`.
            thresholding: of the x_0 estimate of pixel models: `static`, `dynamic` or `none`.
            output_type: `pil`, `np`, `pt` or `latent`.
            callback_on_step_end: gets the pipeline, the number of the step, its timestep and {"latents": x_t}, and
                returns a dictionary whose "latents", where it has any, go on.

        Raises:
            ValueError: an argument does not fit another, or there is neither a retriever nor neighbors by hand.
            ConfigError: the scheduler is none that fits.
            ModelError: out of memory.
        """
        check_counts(
            num_neighbors=num_neighbors,
            num_style_neighbors=num_style_neighbors,
            num_inference_steps=num_inference_steps,
            num_images_per_prompt=num_images_per_prompt,
        )
        check_output_type(output_type)
        check_thresholding(thresholding)
        prompts, changes, guidance = (
            as_prompts(prompt),
            retrieval_schedule or RetrievalSchedule(),
            guidance or Guidance(),
        )
        source = NeighborSource(
            prompts=prompts,
            images_per_prompt=num_images_per_prompt,
            given=neighbors,
            retriever=self.retriever,
            exclude=exclude,
            count=num_neighbors,
            schedule=changes,
            style_count=num_style_neighbors,
            style=style,
        )
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        check_fits(self.scheduler, self.generator.schedule)
        first = 0 if image is None else start_at(self.scheduler, strength)
        calls = solver_steps(self.scheduler)[first:]
        num_steps = calls[-1] - calls[0] + 1
        repeated = [text for text in prompts for _ in range(num_images_per_prompt)]
        generators = as_generators(generator, len(repeated))
        seeds = reproducing_seeds(generators, latents)
        conditioning = Conditioning(
            cache=NeighborCache(self.generator),
            lists=source.first(),
            phases=changes.phases(num_steps, num_neighbors if neighbors is None else None),
            find=source.again,
            num_steps=num_steps,
        )
        noise = initial_noise(generators, self.generator.sample_shape, latents).to(self.device)
        with enough_memory(len(repeated)), conditioning, self.progress_bar(total=len(calls)) as bar:
            loop = Loop(
                generator=self.generator,
                scheduler=self.scheduler,
                prompts=repeated,
                guidance=guidance,
                thresholding=thresholding,
                seeds=coins(generators),
                precision=self.precision,
                clean=None if image is None else self._clean(image, len(prompts), num_images_per_prompt),
                first=first,
                on_step=partial(self._after_step, bar, callback_on_step_end),
            )
            with span("denoise", steps=len(calls), images=len(repeated)):
                clean = loop.run(noise, generators, conditioning)
            with span("decode"):
                images = to_output(self.generator.codec, clean, output_type)
        self.maybe_free_model_hooks()
        looked = conditioning.looked()
        settings = {
            "scheduler": type(self.scheduler).__name__,
            "num_inference_steps": num_inference_steps,
            "guidance": asdict(guidance),
            "thresholding": thresholding,
        } | ({} if image is None else {"strength": strength})
        if source.trouble:
            settings["trouble"] = list(source.trouble)
        hashes = [found for found in source.corpus_hashes for _ in range(num_images_per_prompt)]
        provenance = [
            Provenance(
                prompt=text,
                seed=seed,
                corpus_hash=corpus_hash,
                model_hash=self.generator.fingerprint,
                neighbors=one.sources(),
                null_attention=round(one.null, 5),
                settings=settings,
            )
            for text, seed, corpus_hash, one in zip(repeated, seeds, hashes, looked, strict=True)
        ]
        return RetrievalPipelineOutput(
            images=images, provenance=provenance, heat_maps=[list(one.heat) for one in looked]
        )

    def _clean(self, image: Pictures, prompts: int, times: int) -> Tensor:
        """x_0 of the pictures to begin with, (B, D, h, w)."""
        pixels = as_pictures(image, prompts, self.generator.image_size)
        clean = self.generator.codec.encode(pixels_to_images(torch.from_numpy(pixels)).to(self.device))
        return clean.float().repeat_interleave(times, dim=0)

    def _after_step(self, bar: Any, tell: OnStep | None, number: int, timestep: Tensor, sample: Tensor) -> Tensor:
        """Show progress and let the caller change x_t."""
        bar.update()
        changed = {} if tell is None else tell(self, number, timestep, {"latents": sample}) or {}
        return changed.get("latents", sample)
