"""RetrievalPipeline: prompts in, images and their provenance out; a diffusers DiffusionPipeline.

    neighbors -> f(c_n, 0) once -> T steps of a scheduler over guided predictions -> images

Shapes: B images (prompts x images per prompt, the images of a prompt together), D/h/w the U-Net's input, H/W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.models.neighbor_batch import Picture
from rag_diffusion.models.neighbor_control import WeightByMap, WeightByStep
from rag_diffusion.sampling.arguments import (
    begin_strength_of,
    guidance_of,
    negative_texts,
    num_steps_of,
    refuse,
    strength_of,
)
from rag_diffusion.sampling.auto import known_to_auto_pipeline
from rag_diffusion.sampling.cascade_stages import (
    StageSettings,
    settings_of,
)
from rag_diffusion.sampling.embeddings import Embeddings, control_of, control_pictures, image_prompts
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.inpainting import MaskImage, as_masks
from rag_diffusion.sampling.inputs import (
    Exclude,
    Given,
    One,
    Pictures,
    as_pictures,
    as_prompts,
    by_prompt,
    check_counts,
    style_neighbors,
)
from rag_diffusion.sampling.output import OutputType, RetrievalPipelineOutput, check_output_type
from rag_diffusion.sampling.request import SamplingRequest
from rag_diffusion.sampling.rollout_pipeline import RolloutPipeline
from rag_diffusion.sampling.safety import check_can_look, finished
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import image_seeds, noise_device
from rag_diffusion.sampling.source import NeighborSource
from rag_diffusion.sampling.steering import DrawingState, check_callback_tensors
from rag_diffusion.sampling.threshold import Thresholding, check_thresholding
from rag_diffusion.store.filters import Filter

OnStep = Callable[["RetrievalPipeline", int, Tensor, dict[str, Any]], dict[str, Tensor]]


@known_to_auto_pipeline
class RetrievalPipeline(RolloutPipeline):
    """Draws images conditioned on a prompt and on image-text pairs.

    Args:
        generator: U-Net, codec, text encoder and variance schedule.
        retriever: finds neighbors for prompts; a knowledge base finds them in all its data sets, remote ones too, as
            they are at each drawing; without one they are given by hand.
        scheduler: one of `denoise.SCHEDULERS`, by class name, or of diffusers as it is set; later
            `Other.from_config(pipe.scheduler.config)`.
        precision: `fp32` computes as the weights are, `bf16`, `fp16`, or `auto`: bfloat16 where the hardware is fast
            at it.
        stages: super-resolution stages of a cascade, in their order; each takes images of the size before it.
        safety_checker: (B, H, W, 3) uint8 -> which of B pictures are withheld, see `safety.PublishedChecker`.
        blocklist: prompts, and captions of neighbors by hand, that are refused.
        watermark: a text whose mark every picture carries, see `watermark`; empty marks none.
        unet, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2: parts in place of a generator, as diffusers'
            pipelines have them; a plain U-Net gets neighbor attention.
        image_encoder, feature_extractor: of an IP-Adapter.
        controlnet: `ControlNetModel`, or several.
        force_zeros_for_empty_prompt: of Stable Diffusion XL.

    Examples:
        >>> from PIL import Image
        >>> from rag_diffusion import Neighbor, RetrievalPipeline
        >>> pipe = RetrievalPipeline.from_pretrained("data/base")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> square = Neighbor(image=Image.new("RGB", (64, 64), "red"), caption="a red square", licence="CC0-1.0")
        >>> out = pipe("a red circle", [square], num_inference_steps=2)
        >>> out.images[0].size
        (64, 64)
        >>> [(source.caption, source.licence) for source in out.provenance[0].neighbors]
        [('a red square', 'CC0-1.0')]
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        neighbors: Given | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_neighbors: int = 3,
        num_style_neighbors: int = 0,
        style: str | None = None,
        style_images: One | Sequence[One] | None = None,
        exclude: Exclude = None,
        source: str | Sequence[str] = (),
        where: Filter | None = None,
        negative_neighbors: Given | None = None,
        weight_by_step: WeightByStep = (),
        weight_by_map: WeightByMap = "both",
        retrieval_schedule: RetrievalSchedule | None = None,
        guidance: Guidance | None = None,
        num_inference_steps: int = 20,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        image: Pictures | None = None,
        mask_image: MaskImage | Sequence[MaskImage] | None = None,
        strength: float | None = None,
        begin_strength: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Sequence[Tensor] | None = None,
        control_image: Any = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
        eta: float = 0.0,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        thresholding: Thresholding | None = None,
        colours: Sequence[str | Path | Picture] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStep | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        keep_pictures: bool = False,
        stages: int | None = None,
        stage_settings: Sequence[StageSettings] | None = None,
        **unknown: Any,
    ) -> RetrievalPipelineOutput:
        """Draw.

        Args:
            prompt: a text or P texts; None draws from `prompt_embeds`, and retrieves nothing.
            neighbors: by hand: a `Neighbor`, an image file's name, a picture, a tuple of either with its caption, a
                list of those, or a list for each of P prompts; None asks the retriever. Without a caption, and without
                a text file of the same name beside it, a picture is taken to show what the prompt asks for.
            height: of a drawing in pixels, a multiple of what the network's cells are; None is that of training.
                Neighbors of any aspect stand in a white frame of the drawing's.
            width: likewise.
            num_neighbors: pairs asked of the retriever for each prompt; 0 draws without. Fewer come where the knowledge
                base has fewer. Without effect on neighbors given by hand.
            num_style_neighbors: pairs that show other things in the manner asked for, for a generator that knows roles.
            style: that manner, a style of the knowledge base, or in words where its pairs have none; None takes the one
                that a prompt names.
            style_images: pictures in that manner, as `neighbors` has them: each conditions every image as a style
                neighbor, and where `num_style_neighbors` are more, the others are to look like them.
            exclude: for each prompt, pair ids that must not be retrieved.
            source: data sets of the knowledge base, or sources in them, that alone may be retrieved from.
            where: the same, with classes, licences and splits besides.
            negative_neighbors: by hand, in the forms of `neighbors`, to guide away from; beside all others.
            weight_by_step: factor of the weight of retrieved neighbors over the steps, as in `Neighbor`.
            weight_by_map: the same by attended map.
            retrieval_schedule: how neighbors change over the steps; None keeps them.
            guidance: None is `Guidance()`. An image without neighbors takes a text-enhanced step for every guided one.
            num_inference_steps: T.
            num_images_per_prompt: B / P.
            generator: one for each of B images; or one for all, from which each image gets a seed of its own; None
                draws seeds. An image depends on nothing else in the batch; its seed stands in its provenance.
            latents: (B, D, h, w) initial noise in place of the generators' own.
            image: a picture, or one for each of P prompts, to begin with instead of noise: PIL or uint8, any size.
            mask_image: in-painting: white where `image` is drawn anew, with the neighbors, and black where it stays;
                one, or one for each of P prompts, scaled to the drawing.
            strength: how far `image` is noised, the share of the T steps that are taken; None is 0.8, with a mask 1.
            begin_strength: below 1, each image begins with its first content neighbor, noised so far, in place of
                noise: the thing is kept more often, its outlines too. Without neighbors it begins with noise. None is
                the pipeline's own `begin_strength`, 1 where nothing else was set or beside `image`.
            negative_prompt: a text, or one for each of P prompts, that text-enhanced steps go away from in place of the
                empty one; see `negative_neighbors`.
            guidance_scale: diffusers' name of `Guidance.text_guidance_scale`; 1 or less draws without any guidance.
            prompt_embeds: (P, L, D) in the place of encoded prompts, as `encode_prompt` gives them; beside `prompt`,
                that is what is retrieved by.
            negative_prompt_embeds: (P, L, D) in the place of encoded negative prompts.
            pooled_prompt_embeds: (P, D') of Stable Diffusion XL.
            negative_pooled_prompt_embeds: (P, D') likewise.
            clip_skip: layers of CLIP that are left out, from the last one on, for prompts and captions alike.
            cross_attention_kwargs: `scale`, the weight of LoRA, and `ip_adapter_masks`.
            ip_adapter_image: a picture for each IP-Adapter, which conditions every image beside its neighbors.
            ip_adapter_image_embeds: embeddings in its place.
            control_image: of the ControlNet: one, or one for each of P prompts; of several, a list of that for each.
            controlnet_conditioning_scale: how much it counts, of each where there are several.
            control_guidance_start: share of the steps from which on it is at work.
            control_guidance_end: share of the steps up to which it is.
            eta: of DDIM, how much noise is drawn anew at each step: 0 none, 1 as much as DDPM.
            timesteps: of the network's calls, falling, in place of `num_inference_steps`; some schedulers take them.
            sigmas: noise levels in their place; those that lie between the timesteps of training are refused.
            thresholding: of the x_0 estimate of pixel models: `static`, `dynamic`, `palette`, which draws in few flat
                colours, or `none`; None is the pipeline's own `thresholding`, `static` where nothing else was set. The
                colours of `palette` are those of the style asked for, and a shaded style is drawn with `static`: see
                `style_palettes`.
            colours: all that the images may have, as "#dd2e44", or pictures to read them off; they are drawn with
                `palette`.
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: False returns a tuple of the output's fields, images first.
            callback_on_step_end: gets the pipeline, the number of the step, its timestep and {"latents": x_t,
                "pred_original_sample": the estimate of x_0, both (B, D, h, w), "stage": its number}, and returns
                a dictionary whose "latents", where it has any, go on. What it raises ends the drawing; after it sets
                `_interrupt` of the pipeline, no further step is taken, and what is there is returned.
            callback_on_step_end_tensor_inputs: what it gets in their place, of `_callback_tensor_inputs`; embeddings
                that it returns go on as well, and so does another `_guidance_scale` of the pipeline.
            keep_pictures: whether the provenance keeps the pixels of the neighbors and of `image`, so that the file of
                a drawing alone draws it again.
            stages: how many stages of a cascade draw, the first one counted; None: all that there are. The arguments
                above are those of the first one but `prompt`, `generator`, `output_type` and the callback.
            stage_settings: of the stages from the second on; None: their own.
            **unknown: refused, those that diffusers' pipelines have with the reason.

        Raises:
            TypeError: an argument that there is not.
            ValueError: an argument does not fit another.
            ConfigError: the scheduler is none that fits.
            ModelError: out of memory.
            MixedBatchError: below a `begin_strength` of 1 some prompts have a neighbor and others have none.
            BlockedError: a prompt, or the caption of a neighbor by hand, is on the blocklist.
        """
        # arguments
        refuse(unknown)
        chosen_guidance = guidance_of(guidance, guidance_scale)
        strength = strength_of(strength, image, mask_image)
        begin_strength = begin_strength_of(begin_strength, self.begin_strength, image)
        check_callback_tensors(callback_on_step_end_tensor_inputs)
        check_counts(
            num_neighbors=num_neighbors,
            num_style_neighbors=num_style_neighbors,
            num_inference_steps=num_inference_steps,
            num_images_per_prompt=num_images_per_prompt,
        )
        check_output_type(output_type)
        thresholding = thresholding or ("palette" if colours is not None else self.thresholding)
        check_thresholding(thresholding)
        check_can_look(output_type, self.safety_checker, self.watermark)
        further = settings_of(self.stages, stages, stage_settings)
        prompts = [""] * len(prompt_embeds) if prompt is None and prompt_embeds is not None else as_prompts(prompt)
        changes = retrieval_schedule or RetrievalSchedule()
        model = self.generator.for_drawing(height, width, clip_skip, cross_attention_kwargs)

        if self.blocklist:
            if prompt_embeds is not None:
                raise ValueError(
                    "prompt_embeds: expected a prompt, as this pipeline has a blocklist, which reads texts"
                )
            lists = [] if neighbors is None else by_prompt(neighbors, prompts)
            said = [neighbor.caption for own in lists for neighbor in own]
            self.blocklist.check([*dict.fromkeys([*prompts, *said, *([style] if style else [])])])

        # neighbors: given, or found by the retriever, of each of P prompts
        neighbor_source = NeighborSource(
            prompts=prompts,
            images_per_prompt=num_images_per_prompt,
            given=neighbors,
            retriever=self.retriever,
            exclude=exclude,
            count=num_neighbors,
            schedule=changes,
            style_count=num_style_neighbors,
            style=style,
            where=_filter(source, where),
            negative=negative_neighbors,
            weight_by_step=weight_by_step,
            weight_by_map=weight_by_map,
            style_given=() if style_images is None else style_neighbors(style_images, style or "a picture"),
        )
        count = None if neighbors is not None or (style_images is not None and not num_neighbors) else num_neighbors

        # all that the B images depend on
        repeated_rows = partial(np.repeat, repeats=num_images_per_prompt, axis=0)
        repeated = [text for text in prompts for _ in range(num_images_per_prompt)]
        kinds, palettes = self._manners(repeated, thresholding, style, colours)
        images = image_prompts(model, ip_adapter_image, ip_adapter_image_embeds, len(repeated))
        span_of_control = (controlnet_conditioning_scale, control_guidance_start, control_guidance_end)
        control = control_of(self.controlnet, control_image, *span_of_control)
        if control is not None:
            pictures = control_pictures(model, control_image, self.controlnet, len(prompts), num_images_per_prompt)
            images = replace(images, control=pictures)
        if control is not None or images.no_image:
            model = replace(model, control=control, no_image=tuple(one[:1] for one in images.no_image))
        seeds, state = image_seeds(generator, len(repeated)), DrawingState(guidance=chosen_guidance)
        request = SamplingRequest(
            prompts=repeated,
            source=neighbor_source,
            phases=partial(changes.phases, count=count),
            guidance=chosen_guidance,
            num_inference_steps=num_steps_of(num_inference_steps, timesteps, sigmas),
            seeds=seeds,
            noise=noise_device(generator),
            latents=latents,
            pictures=None if image is None else repeated_rows(as_pictures(image, len(prompts), model.size)),
            strength=strength,
            begin_strength=begin_strength,
            masks=None if mask_image is None else repeated_rows(as_masks(mask_image, len(prompts), model.size)),
            negative_prompts=negative_texts(negative_prompt, len(prompts), num_images_per_prompt),
            embeddings=Embeddings.of(
                len(prompts),
                num_images_per_prompt,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                pooled_prompt_embeds=pooled_prompt_embeds,
                negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            ),
            images=images,
            eta=eta,
            timesteps=timesteps,
            sigmas=sigmas,
            state=state,
            thresholding=kinds,
            palettes=palettes,
            output_type=output_type,
            on_step=None,
            keep=keep_pictures,
        )
        if callback_on_step_end is not None:
            tell = partial(self._tell, callback_on_step_end, callback_on_step_end_tensor_inputs, state)
            request = replace(request, on_step=partial(tell, 1))

        # f(c_n, 0) once, then T steps of the scheduler, then decoding; then the further stages
        self._interrupt, self._guidance_scale = False, chosen_guidance.text_guidance_scale
        on_stage_step = None if callback_on_step_end is None else tell
        drawn = self._carry_out(request, model, self.scheduler, self.precision, further, on_stage_step)
        found = finished(drawn, self.safety_checker, self.watermark)
        return found if return_dict else found.to_tuple()


def _filter(source: str | Sequence[str], where: Filter | None) -> Filter:
    """Both in one."""
    where = where or Filter()
    named = (source,) if isinstance(source, str) else tuple(source)
    return replace(where, sources=(*where.sources, *named)) if named else where
