"""The parts of a RetrievalPipeline: where they come from and go to, and what diffusers does with them.

A pipeline is made of a generator, or of the parts of one by diffusers' names; either way both are there, over the same
weights. What replaces a part (`pipe.vae = ...`) replaces it in the generator as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from rag_diffusion.device import check_precision
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator, save_generator
from rag_diffusion.models.own import own_of
from rag_diffusion.models.published import generator_of
from rag_diffusion.models.shared_weights import with_neighbors
from rag_diffusion.models.single_file import read_single_file
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.retrieval.query import Searcher
from rag_diffusion.sampling.arguments import negative_texts, one_device, refuse
from rag_diffusion.sampling.base_methods import LATE_PARTS, BaseMethods
from rag_diffusion.sampling.cascade_folder import load_stages, save_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage, check_chain
from rag_diffusion.sampling.embeddings import as_network
from rag_diffusion.sampling.fitting import fitting_name, fitting_scheduler
from rag_diffusion.sampling.inputs import as_prompts
from rag_diffusion.sampling.safety import SafetyChecker
from rag_diffusion.sampling.style_palettes import StylePalettes
from rag_diffusion.sampling.threshold import Thresholding

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", *LATE_PARTS)


class PipelineParts(BaseMethods, DiffusionPipeline):
    """The parts; see `RetrievalPipeline` for the arguments."""

    frames: Generator | None = None  # draws the next frames of clips; None lets the generator draw them
    begin_strength: float = 1.0  # of pictures, where a call names none; below 1 they begin with a neighbor
    thresholding: Thresholding = "static"  # of pictures, where a call names none; clips are drawn with `static`
    palettes: StylePalettes | None = None  # of `palette`; None: those of the retriever's pairs
    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->unet->vae"
    _optional_components = [*PARTS, "codec", "scheduler", "controlnet"]  # noqa: RUF012 -- diffusers adds it to a list

    def __init__(
        self,
        generator: Generator | None = None,
        retriever: Searcher | None = None,
        scheduler: Any = None,
        precision: str = "fp32",
        stages: Sequence[CascadeStage] = (),
        *,
        unet: UNet2DConditionModel | RetrievalUNet | None = None,
        vae: AutoencoderKL | None = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        image_encoder: Any = None,
        feature_extractor: Any = None,
        controlnet: Any = None,
        codec: PatchCodec | None = None,
        force_zeros_for_empty_prompt: bool = True,
        safety_checker: SafetyChecker | None = None,
        blocklist: Blocklist | None = None,
        watermark: str = "",
    ) -> None:
        super().__init__()
        self.safety_checker = safety_checker if callable(safety_checker) else None  # diffusers loads none as a pair
        self.blocklist, self.watermark = blocklist, watermark
        check_precision(precision)
        if retriever is not None and not hasattr(retriever, "search"):
            raise ValueError(f"retriever: expected one, got {retriever!r}; give KnowledgeBase.open({str(retriever)!r})")
        if generator is None:
            parts = {
                "vae": vae,
                "text_encoder": text_encoder,
                "tokenizer": tokenizer,
                "text_encoder_2": text_encoder_2,
                "tokenizer_2": tokenizer_2,
                "image_encoder": image_encoder,
                "feature_extractor": feature_extractor,
            }
            if codec is not None:
                generator = own_of(unet, codec, text_encoder, tokenizer, scheduler)
            else:
                generator = generator_of(unet, scheduler, parts, force_zeros=force_zeros_for_empty_prompt)
        self.generator, self.retriever, self.precision = generator, retriever, precision
        self.followed_by(stages)
        self.register_modules(
            scheduler=fitting_scheduler(scheduler, generator.schedule),
            controlnet=as_network(controlnet),
            **self._parts(),
        )
        self._optional_components = self._can_be_missing()

    def _can_be_missing(self) -> list[str]:
        """Parts that this pipeline draws without; another may have to have them."""
        parts = self._parts()
        return [*LATE_PARTS, "controlnet", *(name for name in PARTS if name not in LATE_PARTS and parts[name] is None)]

    def _parts(self) -> dict[str, Any]:
        """The generator's parts by diffusers' names; None where it has none."""
        published, encoder = self.generator.published, self.generator.text_encoder
        own = {}
        if published is None:
            own = {"text_encoder": getattr(encoder, "model", None), "tokenizer": getattr(encoder, "tokenizer", None)}
        found = {name: own.get(name, getattr(published, name, None)) for name in PARTS}
        return found | {"unet": self.generator.unet}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        retriever: Searcher | None = None,
        *,
        scheduler: str | None = None,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> Self:
        """Read a generator's folder, or a published Stable Diffusion (XL) or DeepFloyd IF pipeline.

        A folder with cascade.json has super-resolution stages besides; `save_pretrained` writes one.

        Args:
            pretrained_model_name_or_path: folder, or hub name of a published pipeline.
            retriever: as in the constructor: `KnowledgeBase.open(".")` has the project's corpus and what
                `rag-diffusion kb add` has added, remote data sets among it. It is not part of the generator's folder.
            scheduler: as in the constructor; None is the one that was saved, where it fits.
            precision: as in the constructor.
            device: where the weights are to live.
            **options: of `RetrievalUNet.from_pretrained` for a published pipeline: `neighbor_skips`, `torch_dtype`;
                `device_map` with one device is `device`.

        Raises:
            ModelError: as `load_generator`.
            ValueError: the retriever is none, or the parts are to live on several devices.
        """
        device = one_device(options.pop("device_map", None), device)
        generator = load_generator(pretrained_model_name_or_path, device, **options)
        chosen = scheduler or getattr(generator.published, "scheduler", None)
        stages = load_stages(pretrained_model_name_or_path, device)
        return cls(generator, retriever, chosen or fitting_name(generator.saved_scheduler), precision, stages)

    def followed_by(self, stages: Sequence[CascadeStage]) -> Self:
        """This pipeline, with these super-resolution `stages` after the first one.

        Raises:
            ModelError: the sizes do not chain.
            ValueError: a setting is outside of what a stage was trained for.
        """
        check_chain(self.generator, stages)
        self.stages = tuple(stages)
        self.model_cpu_offload_seq = "->".join([type(self).model_cpu_offload_seq, *self._stage_unets])
        return self

    @classmethod
    def from_pipe(cls, pipeline: Any, retriever: Searcher | None = None, **options: Any) -> Self:
        """A pipeline over the parts of one of diffusers, Stable Diffusion (XL) or DeepFloyd IF; no weight is copied.

        `as_base` is the way back.

        Args:
            pipeline: of diffusers.
            retriever: as in the constructor.
            **options: parts in the place of its own, `precision`, and arguments of `RetrievalUNet`.

        Raises:
            ModelError: it has no U-Net or no scheduler.
            ValueError: there are offload hooks on its U-Net.
        """
        own = {name: options.pop(name) for name in list(options) if name.startswith("neighbor_")}
        parts = {name: pipeline.components.get(name) for name in (*PARTS, "scheduler", "controlnet")} | options
        if own and parts["unet"] is not None:
            parts["unet"] = with_neighbors(parts["unet"], **own)
        if "codec" in pipeline.components:
            parts["codec"] = pipeline.components["codec"]
        zeros = pipeline.config.get("force_zeros_for_empty_prompt", True)
        return cls(None, retriever, force_zeros_for_empty_prompt=zeros, **parts)

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path: str | Path, retriever: Searcher | None = None, **options: Any
    ) -> Self:
        """Read Stable Diffusion 1, 2 or XL in one file of safetensors.

        Args:
            pretrained_model_link_or_path: of the file.
            retriever: as in the constructor.
            **options: arguments of `RetrievalUNet`, and of diffusers' `from_single_file`: `config`, `torch_dtype`, ...

        Raises:
            ModelError: it is no such file, or its settings cannot be had.
        """
        own = {name: options.pop(name) for name in list(options) if name.startswith("neighbor_")}
        return cls.from_pipe(read_single_file(pretrained_model_link_or_path, **options), retriever, **own)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write generator and scheduler into a folder; `from_pretrained` reads them again.

        Args:
            save_directory: the folder.
            **options: of diffusers for a published family: `variant`, `max_shard_size`.

        Raises:
            ValueError: weights are to be pickled.
        """
        if not options.get("safe_serialization", True):
            raise ValueError("safe_serialization: expected True; pickled weights run code where they are read")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_generator(self.generator, folder, self.scheduler, **options)
        save_stages(self.stages, folder)

    @property
    def unet(self) -> RetrievalUNet:
        """The generator's; may be replaced, by a compiled one for example."""
        return self.generator.unet

    @unet.setter
    def unet(self, unet: RetrievalUNet) -> None:
        """`unet` in the place of the one that is there."""
        self.generator.unet = unet

    @property
    def components(self) -> dict[str, Any]:
        """The parts, by the names of the constructor; U-Nets of further stages as `unet_2`, ..."""
        own = {name: getattr(self, name, None) for name in (*PARTS, "scheduler", "controlnet")}
        codec = {"codec": self.generator.codec} if self.generator.published is None else {}
        return own | codec | self._stage_unets

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        generator = self.__dict__.get("generator")
        if generator is not None and name in PARTS:
            generator.put(name, value)

    @property
    def _stage_unets(self) -> dict[str, Any]:
        """U-Nets of the further stages, by the names that offload hooks know them by."""
        return {f"unet_{number}": stage.model.unet for number, stage in enumerate(self.stages, start=2)}

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes."""
        return self.generator.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the U-Net's weights, or of what there is without one."""
        dtype: torch.dtype = super().dtype if self.unet is None else self.unet.dtype
        return dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every part, or give its weights another type.

        Args:
            *args: device and dtype, as in diffusers.
            **kwargs: the same by name, and `silence_dtype_warnings`.
        """
        super().to(*args, **kwargs)
        dtype = next((value for value in (*args, kwargs.get("dtype")) if isinstance(value, torch.dtype)), None)
        devices = [value for value in (*args, kwargs.get("device")) if isinstance(value, str | torch.device)]
        if devices:
            beside = [] if self.frames is None else [self.frames]
            for model in (self.generator, *beside, *(stage.model for stage in self.stages)):
                model.to(devices[0])
        if dtype is not None:
            for stage in self.stages:
                stage.model.unet.to(dtype)
        return self

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, ...]:
        """Embeddings of prompts, as `prompt_embeds` and `negative_prompt_embeds` of a drawing take them.

        A pipeline without a U-Net does it as well: encode, let go of the text encoder, and draw with another.

        Args:
            prompt: a text or P texts.
            device: where to; None is that of the pipeline.
            num_images_per_prompt: rows for each prompt.
            do_classifier_free_guidance: whether negative ones are wanted, which are None otherwise.
            negative_prompt: a text or P texts that guidance goes away from; None is the empty one.
            **kwargs: further ones of the base's `encode_prompt` in diffusers: `clip_skip`, `lora_scale`, ...

        Returns:
            Those of the prompts, those of the negative prompts, and of SDXL both pooled.

        Raises:
            TypeError: an argument that the text encoder does not know.
        """
        device = device or self.device
        base = self.generator.published
        if base is not None:
            options = {
                "device": device,
                "num_images_per_prompt": num_images_per_prompt,
                "do_classifier_free_guidance": do_classifier_free_guidance,
                "negative_prompt": negative_prompt,
            }
            prompt_embeds, negative_prompt_embeds, *pooled = base.encode_prompt(prompt, **options, **kwargs)
            if pooled:
                pooled_prompt_embeds, negative_pooled_prompt_embeds = pooled
                return prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds
            return prompt_embeds, negative_prompt_embeds
        refuse(kwargs)
        against = (negative_prompt or "") if do_classifier_free_guidance else None
        prompts = as_prompts(prompt)
        return tuple(
            None if texts is None else self.generator.text_encoder(texts).states.to(device)
            for texts in (
                negative_texts(prompts, len(prompts), num_images_per_prompt),
                negative_texts(against, len(prompts), num_images_per_prompt),
            )
        )
