"""The generator: codec, preconditioned U-Net and text encoder behind two calls, and as one folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rag_diffusion.config import ModelConfig
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.neighbor_attention import NeighborKV
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.precondition import Precondition
from rag_diffusion.models.text_encoder import TextEncoder, TextFeatures
from rag_diffusion.models.unet import RetrievalUNet

NUM_TRAIN_TIMESTEPS = 1000
_SPEC, _CODEC = "generator.json", "codec.safetensors"


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """What the U-Net alone does not say: pixel patches, image size, text encoder."""

    image_size: int
    patch_size: int
    text_encoder: str
    max_text_tokens: int


@dataclass(kw_only=True)
class Generator:
    """U-Net with its patch codec and text encoder."""

    unet: RetrievalUNet
    codec: PatchCodec
    text_encoder: TextEncoder
    spec: GeneratorSpec

    @property
    def device(self) -> torch.device:
        """Where the U-Net lives."""
        return torch.device(next(self.unet.parameters()).device)

    def neighbor_features(self, neighbors: NeighborBatch, captions: TextFeatures) -> dict[str, NeighborKV]:
        """Keys and values of every neighbor: f(c_n, 0) depends neither on x_t nor on t, so once an image is enough.

        Args:
            neighbors: N distinct neighbors, and who of B images sees which.
            captions: of the N neighbors.
        """
        images = self.codec.encode(neighbors.images.to(self.device))
        clean = Precondition.at(_ALPHAS_CUMPROD[0].to(self.device), self.codec.std)
        maps = self.unet.encode_neighbors(images * clean.scale_in, captions.states, captions.mask)
        return self.unet.project_neighbors(maps, neighbors.rows.to(self.device), neighbors.mask.to(self.device))

    def velocity(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: TextFeatures,
        features: dict[str, NeighborKV] | None,
        *,
        and_without: bool = False,
    ) -> Tensor:
        """v_hat of x_t.

        Args:
            sample: (B, D, h, w) noisy input.
            timestep: () or (B,) integers.
            text: of B captions.
            features: `neighbor_features` of the batch; None is k = 0.
            and_without: also without the neighbors, out of the same encoder pass.

        Returns:
            (B, D, h, w) float32; with `and_without` (2B, ...), those with neighbors first.
        """
        factors = Precondition.at(_ALPHAS_CUMPROD.to(self.device)[timestep.to(self.device).long()], self.codec.std)
        output = self.unet(
            sample * factors.scale_in,
            timestep,
            text.states,
            encoder_attention_mask=text.mask,
            neighbors=features,
            and_without=and_without,
        ).sample
        if and_without:
            return torch.cat([factors.velocity(sample, part) for part in output.chunk(2)])
        return factors.velocity(sample, output)

    def save(self, folder: Path) -> None:
        """Write `unet/` and `codec.safetensors` (float16 and float32) and `generator.json` into an existing folder."""
        state = {name: value.detach().to("cpu", torch.float16) for name, value in self.unet.state_dict().items()}
        half = RetrievalUNet.from_config(self.unet.config)
        half.load_state_dict(state)
        half.half().save_pretrained(folder / "unet")
        save_file({name: value.cpu().contiguous() for name, value in self.codec.state().items()}, folder / _CODEC)
        (folder / _SPEC).write_text(json.dumps(asdict(self.spec), indent=1, sort_keys=True) + "\n")


def build_generator(config: ModelConfig, codec: PatchCodec, image_size: int, device: torch.device | str) -> Generator:
    """A new generator with random weights.

    Args:
        config: the architecture.
        codec: fitted to the images it is to draw.
        image_size: side in pixels.
        device: where it is to live.

    Raises:
        ConfigError: the sizes do not fit each other.
    """
    if image_size % config.patch_size:
        raise ConfigError(
            f"model.patch_size: expected a divisor of corpus.image_size {image_size}, got {config.patch_size}"
        )
    text_encoder = TextEncoder(config.text_encoder, config.max_text_tokens, device)
    levels = len(config.block_out_channels)
    attended = range(1, levels)  # text attention below the finest level: there it costs most and helps least
    try:
        unet = RetrievalUNet(
            sample_size=image_size // config.patch_size,
            in_channels=3 * config.patch_size**2,
            out_channels=3 * config.patch_size**2,
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=config.layers_per_block,
            down_block_types=tuple(
                "SimpleCrossAttnDownBlock2D" if level in attended else "DownBlock2D" for level in range(levels)
            ),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=tuple(
                "SimpleCrossAttnUpBlock2D" if level in attended else "UpBlock2D" for level in reversed(range(levels))
            ),
            cross_attention_dim=256,
            attention_head_dim=32,
            encoder_hid_dim=text_encoder.width,
            addition_embed_type="text",
            addition_embed_type_num_heads=8,
            neighbor_skips=tuple(config.neighbor_skips),
            neighbor_head_dim=config.neighbor_head_dim,
        )
    except ValueError as error:
        raise ConfigError(f"model: expected sizes that fit each other, got: {error}") from None
    torch.nn.init.zeros_(unet.conv_out.weight)  # F = 0: start as the Wiener filter
    unet.randomize_output()  # from scratch there is no base to preserve, and zeros start slower
    spec = GeneratorSpec(
        image_size=image_size,
        patch_size=config.patch_size,
        text_encoder=config.text_encoder,
        max_text_tokens=config.max_text_tokens,
    )
    return Generator(unet=unet.to(device), codec=codec.to(device), text_encoder=text_encoder, spec=spec)


def load_generator(folder: Path | str, device: torch.device | str) -> Generator:
    """Read a folder that `Generator.save` wrote, in float32.

    Raises:
        ModelError: the folder is missing or incomplete, or its weights have another shape.
    """
    folder = Path(folder)
    if not (folder / _SPEC).exists():
        raise ModelError(
            f"{folder}: expected a generator, found no generator.json; "
            "run `rag-diffusion base promote`, or set finetune.base"
        )
    try:
        spec = GeneratorSpec(**json.loads((folder / _SPEC).read_text()))
        unet = RetrievalUNet.from_pretrained(folder / "unet", low_cpu_mem_usage=False, torch_dtype=torch.float32)
        codec = PatchCodec(patch_size=spec.patch_size, **load_file(folder / _CODEC))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected weights that fit unet/config.json, got: {str(error).strip().splitlines()[0]}; "
            "restore the folder or train it again"
        ) from None
    text_encoder = TextEncoder(spec.text_encoder, spec.max_text_tokens, device)
    return Generator(unet=unet.to(device).eval(), codec=codec.to(device), text_encoder=text_encoder, spec=spec)


def noise_schedule() -> DDPMScheduler:
    """The variance schedule of training: cosine, v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
    )


def initial_noise(seeds: list[int], shape: tuple[int, int, int]) -> Tensor:
    """(B, C, H, W) standard normal; each image has a generator of its own, so the batch size does not matter."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


_ALPHAS_CUMPROD: Tensor = noise_schedule().alphas_cumprod
