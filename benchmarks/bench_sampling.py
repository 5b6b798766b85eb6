"""What does retrieval cost in sampling, against no neighbors, a naive loop, and IP-Adapter?

    python benchmarks/bench_sampling.py [--model data/base] [--images 8] [--steps 20] [--device cpu]

Every row is measured in the same run, best of several rounds that alternate between the peers. Time bounds come from
counted FLOPs. Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch.utils.flop_counter import FlopCounterMode

from rag_diffusion.device import autocast
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.sampling.control import SeenNeighbors
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep
from rag_diffusion.sampling.guided import GuidedPrediction
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded

PROMPT = "a red apple on a table"
NEIGHBORS = 3
Run = Callable[[], Any]


def main() -> None:
    """Run every table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="data/base")
    arguments.add_argument("--images", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    generator = load_generator(options.model, options.device)
    large = latent(generator)
    with torch.inference_mode():
        result = {
            "device": options.device,
            "threads": torch.get_num_threads(),
            "images": options.images,
            "whole": whole("drawings, base generator", generator, options.images, options.steps, options.rounds),
            "steps": steps("steps, base generator", generator, options.images, options.rounds * 4),
            "latent_whole": whole(
                "drawings, Stable Diffusion shape", large, max(1, options.images // 2), options.steps, 2
            ),
            "latent_steps": steps("steps, Stable Diffusion shape", large, options.images, options.rounds * 2),
            "adapter": adapter(generator, options.images, options.rounds * 4),
        }
    print(json.dumps(result))


@dataclass(frozen=True)
class Pooled:
    """Latents without a VAE, so that the U-Net alone is timed: means of 8x8 pixels, and a channel of zeros."""

    std: None = None
    lossless: bool = False

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 4, H / 8, W / 8)."""
        return F.pad(F.avg_pool2d(images, 8), (0, 0, 0, 0, 0, 1))

    def decode(self, sample: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) -> (B, 3, 8 h, 8 w)."""
        return F.interpolate(sample[:, :3], scale_factor=8)

    def to(self, device: torch.device | str) -> Pooled:
        """The same: there is nothing to move."""
        return self


def whole(title: str, generator: Generator, images: int, num_steps: int, rounds: int) -> dict[str, Any]:
    """Drawings of so many steps: 3 neighbors, none, and 3 neighbors encoded anew in every step."""
    pipeline = RetrievalPipeline(generator, precision="auto")
    pipeline.set_progress_bar_config(disable=True)
    lists = [pictures(generator, number) for number in range(images)]

    def draw(neighbors: list[list[Neighbor]], mode: str, naive: bool = False) -> Run:
        def run() -> Any:
            callback = forget if naive else None
            return pipeline(
                [PROMPT] * images,
                neighbors,
                guidance=Guidance(mode=mode),
                num_inference_steps=num_steps,
                generator=seeded(range(images)),
                callback_on_step_end=callback,
            )

        return run

    def forget(_pipe: Any, _number: int, _timestep: Any, _values: Any) -> dict[str, Any]:
        cache = NeighborCache(generator)
        cache.features(lists)
        return {}

    none = [[] for _ in range(images)]
    runs = {
        "none, text guidance": draw(none, "text"),
        "3 neighbors, text guidance": draw(lists, "text"),
        "3 neighbors, alternating": draw(lists, "alternate"),
        "3 neighbors, encoded in every step": draw(lists, "text", naive=True),
    }
    return table(title, runs, rounds, "none, text guidance")


def steps(title: str, generator: Generator, images: int, rounds: int) -> dict[str, Any]:
    """Single steps: eps_n and eps_p against a plain guided step without neighbors."""
    unet, device, width = generator.unet, generator.device, generator.unet.config.encoder_hid_dim
    count = images * NEIGHBORS
    width = width or unet.config.cross_attention_dim
    text, null, captions = (TextFeatures(torch.randn(size, 32, width).to(device)) for size in (images, images, count))
    clean = torch.randn(count, *generator.sample_shape).to(device)
    maps = unet.encode_neighbors(clean, captions.states)
    rows = torch.arange(count, device=device).view(images, NEIGHBORS)
    features = unet.project_neighbors(maps, rows, torch.ones_like(rows))
    guided = GuidedPrediction(generator=generator, guidance=Guidance(), text=text, null=null)
    sample, timestep = torch.randn(images, *generator.sample_shape).to(device), torch.tensor(500, device=device)

    def step(kind: GuidanceStep, keys: Any) -> Run:
        def run() -> Any:
            with autocast("auto", device):
                seen = None if keys is None else SeenNeighbors(positive=keys)
                return guided(sample, timestep, [kind] * images, seen, [keys is not None] * images)

        return run

    runs = {
        "guided, no neighbors": step(GuidanceStep.TEXT, None),
        "eps_p, 3 neighbors": step(GuidanceStep.TEXT, features),
        "eps_n, 3 neighbors": step(GuidanceStep.NEIGHBOR, features),
        "plain, 3 neighbors": step(GuidanceStep.PLAIN, features),
    }
    return table(title, runs, rounds, "guided, no neighbors")


def latent(beside: Generator) -> Generator:
    """Stable Diffusion 1.5 at a fifth of its width, 32x32 latents, neighbor attention at three maps, random weights."""
    torch.manual_seed(0)
    unet = RetrievalUNet(
        sample_size=32, block_out_channels=(64, 128, 256, 256), cross_attention_dim=384, neighbor_skips=(6, 8)
    ).to(beside.device)
    parts = {"codec": Pooled(), "text_encoder": beside.text_encoder, "schedule": DDPMScheduler()}
    return Generator(unet=unet.eval(), image_size=256, **parts)


def adapter(generator: Generator, images: int, rounds: int) -> dict[str, Any]:
    """A Stable Diffusion shaped U-Net with our neighbor attention, and with IP-Adapter on as many image tokens.

    IP-Adapter's image tokens are those of 3 neighbors at the bottleneck; it attends to them in every text attention.
    """
    shape: dict[str, Any] = {
        "sample_size": 32, "block_out_channels": (64, 128, 256), "layers_per_block": 1, "cross_attention_dim": 256,
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    device = generator.device
    torch.manual_seed(0)
    ours = RetrievalUNet(**shape, neighbor_skips=(3, 5)).to(device).eval()
    theirs = UNet2DConditionModel(**shape).to(device).eval()
    processors = {}
    for name, old in theirs.attn_processors.items():
        width = shape["block_out_channels"][2 if "mid" in name else int(name.split(".")[1])]
        if "up_blocks" in name:
            width = shape["block_out_channels"][2 - int(name.split(".")[1])]
        crossed = "attn2" in name
        made = IPAdapterAttnProcessor2_0(width, 256, num_tokens=(NEIGHBORS * 64,), scale=1.0) if crossed else old
        processors[name] = made.to(device) if crossed else made
    theirs.set_attn_processor(processors)
    sample, text = torch.randn(images, 4, 32, 32).to(device), torch.randn(images, 77, 256).to(device)
    clean, captions = torch.randn(NEIGHBORS, 4, 32, 32).to(device), torch.randn(NEIGHBORS, 77, 256).to(device)
    rows = torch.arange(NEIGHBORS, device=device).expand(images, -1)
    features = ours.project_neighbors(
        ours.encode_neighbors(clean, captions), rows, torch.ones(images, NEIGHBORS, device=device)
    )
    tokens = torch.randn(images, 1, NEIGHBORS * 64, 256).to(device)
    timestep = torch.tensor(500, device=device)
    runs = {
        "base U-Net": lambda: ours(sample, timestep, text),
        "neighbor attention, 3 neighbors": lambda: ours(sample, timestep, text, neighbors=features),
        "IP-Adapter, as many tokens": lambda: theirs(sample, timestep, (text, [tokens])),
    }
    return table("beside IP-Adapter, one forward", runs, rounds, "base U-Net")


def pictures(generator: Generator, seed: int) -> list[Neighbor]:
    """Neighbors of noise, which cost what others cost."""
    draws = torch.Generator().manual_seed(seed)
    side = generator.image_size
    return [
        Neighbor(
            image=torch.randint(0, 256, (side, side, 3), generator=draws, dtype=torch.uint8).numpy(), caption=PROMPT
        )
        for _ in range(NEIGHBORS)
    ]


def table(title: str, runs: dict[str, Run], rounds: int, peer: str) -> dict[str, Any]:
    """Time, FLOPs and peak memory of each, and both against a peer."""
    rows: dict[str, dict[str, float]] = {name: {"seconds": float("inf")} for name in runs}
    for name, run in runs.items():
        with FlopCounterMode(display=False) as counter:
            run()
        rows[name]["gflop"] = counter.get_total_flops() / 1e9
        rows[name]["peak_mib"] = peak(run)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            rows[name]["seconds"] = min(rows[name]["seconds"], time.perf_counter() - start)
    print(f"\n{title:38} seconds   GFLOP  time/peer  bound  peak MiB")
    for name, row in rows.items():
        row["ratio"] = row["seconds"] / rows[peer]["seconds"]
        row["bound"] = row["gflop"] / rows[peer]["gflop"]
        print(
            f"{name:38} {row['seconds']:7.3f} {row['gflop']:7.1f} {row['ratio']:9.2f} {row['bound']:7.2f} "
            f"{row['peak_mib']:8.0f}"
        )
    return rows


def peak(run: Run) -> float:
    """MiB at the most: of the GPU, or what the allocations of the profiler add up to on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    now = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 2**20


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
