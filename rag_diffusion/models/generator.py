"""The generator: text encoder, codec, U-Net and variance schedule behind two calls.

    neighbor_features   f(c_n, 0) of every neighbor, once an image
    predict             eps, v or x_0 at x_t, as the schedule's `prediction_type` says

Shapes: B batch, N distinct neighbors, D channels of the U-Net's input, h/w its sides, H/W image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from rag_diffusion.errors import ModelError
from rag_diffusion.models.backbone import Backbone
from rag_diffusion.models.codec import Codec, LatentCodec
from rag_diffusion.models.control import Control
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.neighbor_kv import NeighborKV
from rag_diffusion.models.precondition import Precondition
from rag_diffusion.models.text_encoder import Conditioner, TextFeatures
from rag_diffusion.models.unet import RetrievalUNet

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(kw_only=True)
class Generator:
    """Everything between a text with its neighbors and a prediction.

    Attributes:
        unet: the network; any other with the seam of `backbone` draws as well. None encodes texts and draws nothing.
        codec: images to its input and back.
        text_encoder: texts to its conditions.
        schedule: variance schedule and prediction type that it was trained with.
        image_size: side in pixels.
        published: the diffusers pipeline that the parts were read from; None for the project's own.
        saved_scheduler: class name of the scheduler that stood beside it.
        fingerprint: hash of the folder it was read from, for the provenance; empty where it was not.
        drawn_size: (H, W) of drawings in pixels; None is a square of `image_size`.
        told: what else a drawing is told, by its name in the provenance: `clip_skip`, `cross_attention_kwargs`.
        control: a ControlNet at work; None draws without.
        no_image: (1, n, D) that stands for no image, of each IP-Adapter.
    """

    unet: RetrievalUNet
    codec: Codec
    text_encoder: Conditioner
    schedule: DDPMScheduler
    image_size: int
    published: Any = None
    fingerprint: str = ""
    saved_scheduler: str | None = None
    drawn_size: tuple[int, int] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    control: Control | None = None
    no_image: tuple[Tensor, ...] = ()

    def to(self, device: torch.device | str) -> Generator:
        """Move every part to `device`, in place."""
        if self.unet is not None:
            self.unet.to(device)
        self.text_encoder.to(device)
        self.codec = self.codec.to(device)
        return self

    @property
    def backbone(self) -> Backbone[Any]:
        """The network as what draws knows it."""
        return self.unet

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes; offload hooks keep its weights elsewhere."""
        if self.unet is None:
            encoder: Any = self.text_encoder if self.published is None else self.published.text_encoder
            return torch.device(encoder.device)
        hooks = (getattr(module, "_hf_hook", None) for module in self.backbone.modules())
        places = (getattr(hook, "execution_device", None) for hook in hooks)
        hooked = next((place for place in places if place is not None), None)
        return torch.device(next(self.backbone.parameters()).device if hooked is None else hooked)

    def put(self, name: str, part: Any) -> None:
        """Take another part in the place of one that is there.

        Args:
            name: as diffusers names it: `unet`, `vae`, `text_encoder`, ...
            part: the other one.
        """
        if name == "unet":
            self.unet = part
        if self.published is None:
            if name in ("text_encoder", "tokenizer") and part is not None:
                setattr(self.text_encoder, "model" if name == "text_encoder" else "tokenizer", part)
            elif name == "codec" and part is not None:
                self.codec = part
        elif name != "scheduler" and name in self.published.components:
            if getattr(self.published, name) is not part:
                self.published.register_modules(**{name: part})
            if name == "vae" and part is not None:
                self.codec = LatentCodec(vae=part)

    @property
    def prediction_type(self) -> str:
        """`epsilon`, `v_prediction` or `sample`."""
        return str(self.schedule.config.prediction_type)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a drawing in pixels."""
        return self.drawn_size or (self.image_size, self.image_size)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(D, h, w)."""
        config, (height, width) = self.backbone.config, self.size
        cell = self.image_size // config.sample_size
        return config.in_channels, height // cell, width // cell

    def for_drawing(
        self,
        height: int | None = None,
        width: int | None = None,
        clip_skip: int | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> Generator:
        """The same parts at work on drawings of another size, or told otherwise.

        Args:
            height: H in pixels; None is that of training.
            width: W likewise.
            clip_skip: layers of CLIP that are left out, from the last one on.
            cross_attention_kwargs: `scale`, the weight of LoRA, and `ip_adapter_masks`.

        Raises:
            ModelError: there is no network.
            ValueError: a size that the network cannot have, or a keyword that it does not know.
        """
        if self.unet is None:
            raise ModelError("unet: expected one, got None; a pipeline without it encodes prompts and cannot draw")
        size = (height or self.image_size, width or self.image_size)
        cell = self.image_size // self.backbone.config.sample_size * self.backbone.size_multiple
        if any(side % cell or side < cell for side in size):
            raise ValueError(f"height, width: expected multiples of {cell} pixels, got {size[0]} and {size[1]}")
        extra = dict(cross_attention_kwargs or {})
        if wrong := sorted(set(extra) - {"scale", "ip_adapter_masks"}):
            raise ValueError(f"cross_attention_kwargs: expected scale or ip_adapter_masks, got {wrong}")
        if not extra and clip_skip is None and size == self.size:
            return self
        told: dict[str, Any] = {} if clip_skip is None else {"clip_skip": clip_skip}
        return replace(
            self,
            drawn_size=size,
            text_encoder=self.text_encoder.told(size, clip_skip, extra.get("scale")),
            told=told | ({"cross_attention_kwargs": extra} if extra else {}),
        )

    def alphas_cumprod(self, timestep: Tensor) -> Tensor:
        """abar_t of `timestep`, () or (B,), of the same shape, on the generator's device."""
        table: Tensor = self.schedule.alphas_cumprod
        return table[timestep.long().to(table.device)].to(self.device)

    def neighbor_maps(self, images: Tensor, captions: TextFeatures) -> dict[str, Tensor]:
        """f(c_n, 0) of N neighbors: attended map -> (N, C', H', W').

        Args:
            images: (N, 3, H, W) in [-1, 1]; scaled to the size of a drawing where they have another.
            captions: of the N neighbors.
        """
        images = images.to(self.device)
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(-1, 1)
        clean = self.codec.encode(images)
        known = self._precondition(torch.zeros((), dtype=torch.long))
        clean = clean if known is None else clean * known.scale_in
        if self.no_image and not captions.image_prompts:  # an image prompt belongs to the image that is drawn
            none = tuple(one.expand(len(images), *one.shape[1:]) for one in self.no_image)
            captions = replace(captions, image_prompts=none)
        scale = {name: value for name, value in self._attention.items() if name == "scale"}
        extra = _added(captions) | ({"cross_attention_kwargs": scale} if scale else {})
        return self.backbone.encode_neighbors(clean.to(self.backbone.dtype), captions.states, captions.mask, **extra)

    def neighbor_features(self, neighbors: NeighborBatch, captions: TextFeatures) -> dict[str, NeighborKV]:
        """Keys and values of every neighbor: f(c_n, 0) depends neither on x_t nor on t, so once an image is enough.

        Args:
            neighbors: N distinct neighbors, and who of B images sees which.
            captions: of the N neighbors.

        Returns:
            Attended map -> keys and values for B images.
        """
        maps = self.neighbor_maps(neighbors.images, captions)
        return self.project(maps, neighbors)

    def project(self, maps: Mapping[str, Tensor], neighbors: NeighborBatch) -> dict[str, NeighborKV]:
        """Keys and values of B images.

        Args:
            maps: of `neighbor_maps`, of the N distinct neighbors.
            neighbors: which of them each image sees.
        """
        roles = None if neighbors.roles is None else neighbors.roles.to(self.device)
        rows, weights = neighbors.rows.to(self.device), neighbors.weights.to(self.device)
        return self.backbone.project_neighbors(maps, rows, weights, roles)

    def predict(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: TextFeatures,
        features: Mapping[str, NeighborKV] | None,
        *,
        and_without: bool = False,
        and_with: Mapping[str, NeighborKV] | None = None,
    ) -> Tensor:
        """The prediction at x_t.

        Args:
            sample: (B, D, h, w) noisy input.
            timestep: () or (B,) integers.
            text: of B captions.
            features: `neighbor_features` of the batch; None is k = 0.
            and_without: also without the neighbors, out of the same encoder pass.
            and_with: also with these in their place.

        Returns:
            (B, D, h, w) float32, 2D channels where the network learned its variance; with `and_without` or `and_with`
            (2B, ...), those with `features` first.
        """
        known = self._precondition(timestep)
        seen = (sample if known is None else sample * known.scale_in).to(self.backbone.dtype)
        extra: dict[str, Any] = {"cross_attention_kwargs": self._attention} if self._attention else {}
        if self.control is not None and text.control:
            extra |= self.control.residuals(seen, timestep, text)
        output: Tensor = self.backbone(
            seen,
            timestep,
            text.states,
            encoder_attention_mask=text.mask,
            neighbors=features,
            and_without=and_without,
            and_with=and_with,
            **_added(text),
            **extra,
        ).sample
        if known is None:
            return output.float()
        parts = output.split(len(sample))
        return torch.cat([known.velocity(sample, part) for part in parts])

    @property
    def _attention(self) -> dict[str, Any]:
        """`cross_attention_kwargs` of every call."""
        found: dict[str, Any] = self.told.get("cross_attention_kwargs", {})
        return found

    def _precondition(self, timestep: Tensor) -> Precondition | None:
        std = self.codec.std
        return None if std is None else Precondition.at(self.alphas_cumprod(timestep), std.to(self.device))


def noise_schedule() -> DDPMScheduler:
    """The variance schedule of the project's own generators: cosine, v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
    )


def _added(text: TextFeatures) -> dict[str, Any]:
    added: dict[str, Any] = dict(text.added)
    if text.image_prompts:
        added["image_embeds"] = list(text.image_prompts)
    return {"added_cond_kwargs": added} if added else {}
