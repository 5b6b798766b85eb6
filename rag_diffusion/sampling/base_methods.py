"""What users do to a pipeline of diffusers, done to the parts of a RetrievalPipeline by the base's own methods.

A generator of a published family keeps a pipeline of that family over the same parts. LoRA, textual inversion,
IP-Adapter, prompt embeddings and FreeU are that pipeline's business: neighbor attention stands
beside them. A generator of this project has no such base, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from diffusers import StableDiffusionXLPipeline
from diffusers.loaders import IPAdapterMixin, TextualInversionLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin

from rag_diffusion.errors import ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.shared_weights import without_neighbors

DELEGATED = (
    "load_lora_weights", "unload_lora_weights", "fuse_lora", "unfuse_lora", "set_adapters", "get_active_adapters",
    "get_list_adapters", "delete_adapters", "enable_lora", "disable_lora", "set_lora_device", "lora_state_dict",
    "load_textual_inversion", "unload_textual_inversion",
    "load_ip_adapter", "unload_ip_adapter", "set_ip_adapter_scale", "prepare_ip_adapter_image_embeds",
    "enable_freeu", "disable_freeu", "fuse_qkv_projections", "unfuse_qkv_projections",
)  # fmt: skip
_OF_CLASS = ("save_lora_weights", "load_lora_into_unet", "load_lora_into_text_encoder")  # of 1, 2 and XL alike
_OF_VAE = ("enable_tiling", "disable_tiling", "enable_slicing", "disable_slicing")
LATE_PARTS = ("image_encoder", "feature_extractor")  # an IP-Adapter brings them


def _delegated(name: str) -> Callable[..., Any]:
    def call(self: BaseMethods, *arguments: Any, **options: Any) -> Any:
        base = self.base_for(name)
        try:
            return getattr(base, name)(*arguments, **options)
        finally:
            changed = {part: getattr(base, part, None) for part in LATE_PARTS}
            cast(Any, self).register_modules(
                **{part: value for part, value in changed.items() if value is not getattr(self, part, None)}
            )

    call.__name__ = name
    call.__doc__ = f"`{name}` of the base's pipeline in diffusers, on the parts that both share."
    return call


class BaseMethods(LoraBaseMixin, IPAdapterMixin, TextualInversionLoaderMixin):
    """Methods of diffusers' pipelines that act on the base, whose mixins they are: it is known by them.

    Attributes:
        generator: whose parts they are.
    """

    generator: Generator
    _lora_loadable_modules = ("unet", "text_encoder", "text_encoder_2")

    @property
    def _merged_adapters(self) -> set[str]:
        """Adapters of LoRA that are fused."""
        found: set[str] = getattr(self.generator.published, "_merged_adapters", set())
        return found

    def base_for(self, name: str) -> Any:
        """The diffusers pipeline over the same parts.

        Args:
            name: of the method that is wanted.

        Raises:
            ModelError: there is none, or it has no such method.
        """
        base = self.generator.published
        if base is None:
            raise ModelError(
                f"{name}: expected a base of diffusers (Stable Diffusion, SDXL, DeepFloyd IF), got a generator of this "
                "project, whose text encoder and codec are its own; fine-tune it instead, or load such a base"
            )
        if not hasattr(base, name):
            raise ModelError(f"{name}: expected a base that has it, got a {type(base).__name__}")
        return base

    def as_base(self) -> Any:
        """The plain pipeline of diffusers over the same weights, without neighbors; none of them is copied.

        Raises:
            ModelError: the generator is one of this project.
        """
        base = self.base_for("components")
        parts = dict(base.components) | {"unet": without_neighbors(self.generator.unet)}
        options = {"requires_safety_checker": False} if "safety_checker" in parts else {"add_watermarker": False}
        if "force_zeros_for_empty_prompt" in base.config:
            options["force_zeros_for_empty_prompt"] = base.config.force_zeros_for_empty_prompt
        return type(base)(**parts, **options)


def _of_vae(method: str, name: str) -> Callable[..., Any]:
    def call(self: BaseMethods) -> None:
        vae = getattr(self, "vae", None)
        if vae is None:
            raise ModelError(f"{name}: expected a generator with a VAE, got one that draws pixels, which need none")
        getattr(vae, method)()

    call.__name__ = name
    call.__doc__ = f"`{method}` of the VAE."
    return call


for _name in _OF_CLASS:
    setattr(BaseMethods, _name, staticmethod(getattr(StableDiffusionXLPipeline, _name)))
for _name in DELEGATED:
    setattr(BaseMethods, _name, _delegated(_name))
for _name in _OF_VAE:
    _long = _name.replace("able_", "able_vae_")
    setattr(BaseMethods, _long, _of_vae(_name, _long))
