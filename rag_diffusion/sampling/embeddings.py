"""Prompts, image prompts and control pictures that are given as tensors or pictures, for the B images of a drawing.

Shapes: P prompts, B images, L text tokens, D width, H/W image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rag_diffusion.models.control import Control
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.text_encoder import TextFeatures


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """What stands in the place of encoded texts; names as in diffusers, None where the text is encoded.

    Attributes:
        prompt_embeds, negative_prompt_embeds: (B, L, D).
        pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, D') of Stable Diffusion XL.
    """

    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None

    @classmethod
    def of(cls, prompts: int, times: int, **given: Tensor | None) -> Embeddings:
        """Those of B images.

        Args:
            prompts: P.
            times: B / P.
            **given: of P prompts, by the names above.

        Raises:
            ValueError: they are of another number than the prompts.
        """
        for name, value in given.items():
            if value is not None and len(value) != prompts:
                raise ValueError(f"{name}: expected one row for each of {prompts} prompts, got {len(value)}")
        return cls(
            **{name: None if value is None else value.repeat_interleave(times, dim=0) for name, value in given.items()}
        )

    def features(self, generator: Generator, prompts: Sequence[str], negative: Sequence[str]) -> list[TextFeatures]:
        """What the U-Net is told of B prompts, and of what guidance goes away from.

        Args:
            generator: whose text encoder it is.
            prompts: B texts, encoded where there are no embeddings.
            negative: B texts likewise.

        Raises:
            ValueError: embeddings of another width, or of another number of tokens than the others.
        """
        encoder, device = generator.text_encoder, generator.device
        text = self.prompt_embeds, self.pooled_prompt_embeds
        null = self.negative_prompt_embeds, self.negative_pooled_prompt_embeds
        found = [
            (encoder(texts) if states is None else encoder.features(states.to(device), _on(pooled, device))).to(device)
            for texts, (states, pooled) in ((prompts, text), (negative, null))
        ]
        if found[0].states.shape != found[1].states.shape:
            raise ValueError(
                f"prompt_embeds: expected those of prompts and negative prompts in one shape, got "
                f"{tuple(found[0].states.shape)} and {tuple(found[1].states.shape)}"
            )
        return found

    def facts(self, row: int) -> dict[str, str]:
        """Hashes of the embeddings of an image, by its number `row`, for the provenance."""
        return {
            name: hashlib.sha256(value[row].detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
            for name, value in vars(self).items()
            if value is not None
        }


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)


@dataclass(frozen=True, kw_only=True)
class ImageConditions:
    """Pictures that the network is told of beside text and neighbors.

    Attributes:
        image_prompts: (B, n, D) of each IP-Adapter.
        no_image: (B, n, D) of each, what stands for none.
        control: (B, 3, H, W) of each ControlNet.
    """

    image_prompts: tuple[Tensor, ...] = ()
    no_image: tuple[Tensor, ...] = ()
    control: tuple[Tensor, ...] = ()

    def joined(self, text: TextFeatures, null: TextFeatures) -> tuple[TextFeatures, TextFeatures]:
        """`text` and `null` of B images with them."""
        return (
            replace(text, image_prompts=self.image_prompts, control=self.control),
            replace(null, image_prompts=self.no_image, control=self.control),
        )


def image_prompts(generator: Generator, given: Any, embeds: Any, count: int) -> ImageConditions:
    """Image prompts of an IP-Adapter.

    Args:
        generator: of a published family.
        given: a picture, or a list of one for each adapter; each conditions all images.
        embeds: embeddings in its place, negative ones first, as `prepare_ip_adapter_image_embeds` gives them; where
            there is one row alone, the negative one is zeros.
        count: B.

    Raises:
        ValueError: an adapter is there without a picture, or a picture without an adapter.
    """
    loaded = getattr(generator.backbone.config, "encoder_hid_dim_type", None) == "ip_image_proj"  # no item of it
    asked = given is not None or embeds is not None
    if loaded != asked:
        got = "a picture, and no adapter" if asked else "an adapter, and no picture"
        raise ValueError(
            f"ip_adapter_image: expected both an IP-Adapter and a picture, got {got}; call load_ip_adapter() or "
            "unload_ip_adapter()"
        )
    if not asked:
        return ImageConditions()
    alone = embeds is not None and all(len(one) == 1 for one in embeds)  # without negative ones: these are zeros
    both = generator.published.prepare_ip_adapter_image_embeds(given, embeds, generator.device, count, not alone)
    cast = [one.to(generator.backbone.dtype) for one in both]
    halves = [(torch.zeros_like(one), one) if alone else one.chunk(2) for one in cast]
    return ImageConditions(
        image_prompts=tuple(shown for _, shown in halves), no_image=tuple(none for none, _ in halves)
    )


def control_of(network: Any, picture: Any, scale: float | Sequence[float], start: float, end: float) -> Control | None:
    """A ControlNet at work.

    Args:
        network: of the pipeline; None is none.
        picture: `control_image`.
        scale: of its residuals.
        start: share of the steps from which on it is at work.
        end: share of the steps up to which it is.

    Raises:
        ValueError: a picture without a network, a network without a picture, or shares out of order.
    """
    if (network is None) != (picture is None):
        got = "a picture, and no ControlNet" if network is None else "a ControlNet, and no picture"
        raise ValueError(
            f"control_image: expected both a ControlNet (controlnet= of the constructor) and a picture, got {got}"
        )
    if network is None:
        return None
    if not 0 <= start < end <= 1:
        raise ValueError(f"control_guidance_start, _end: expected shares 0 <= start < end <= 1, got {start} and {end}")
    return Control(network=network, scale=scale, start=start, end=end)


def as_network(given: Any) -> Any:
    """A ControlNet as it is `given`, or several in a list as one."""
    from diffusers import MultiControlNetModel

    return MultiControlNetModel(list(given)) if isinstance(given, list | tuple) else given


def control_pictures(generator: Generator, given: Any, network: Any, prompts: int, times: int) -> tuple[Tensor, ...]:
    """Control pictures of B images.

    Args:
        generator: whose drawings they control.
        given: a picture, or one for each of P prompts; of several networks, a list of that for each.
        network: the ControlNet.
        prompts: P.
        times: B / P.

    Returns:
        (B, 3, H, W) in [0, 1] of each network.

    Raises:
        ValueError: they are of another number.
    """
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor(do_convert_rgb=True, do_normalize=False)
    nets = len(network.nets) if hasattr(network, "nets") else 1
    each = list(given) if hasattr(network, "nets") else [given]
    if len(each) != nets:
        raise ValueError(f"control_image: expected a picture for each of {nets} ControlNets, got {len(each)}")
    height, width = generator.size
    found = []
    for one in each:
        pixels = processor.preprocess(one, height=height, width=width).to(generator.device, generator.backbone.dtype)
        if len(pixels) not in (1, prompts):
            raise ValueError(f"control_image: expected one, or one for each of {prompts} prompts, got {len(pixels)}")
        found.append(pixels.expand(prompts, -1, -1, -1).repeat_interleave(times, dim=0))
    return tuple(found)
