"""What do neighbors cost in one call of the network: none, three, with fine maps, with style neighbors?

    python benchmarks/bench_neighbor_attention.py [--images 4] [--rounds 7] [--threads 1] [--device cpu]

The default architecture with random weights. The variants take turns, so that a busy machine hits all of them alike;
told is the median of the rounds in milliseconds an image, and the ratio to no neighbors. The keys and values, once an
image, are timed apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from rag_diffusion.config import load_config
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.own import build_generator
from rag_diffusion.models.unet import RetrievalUNet


def network(fine: bool, roles: bool, device: str) -> RetrievalUNet:
    """The default network with or without fine maps and roles."""
    changes = {"neighbor_fine_skips": [1, 3] if fine else [], "neighbor_roles": roles}
    config = load_config("params.yaml").model.model_copy(update=changes)
    torch.manual_seed(0)
    size = 3 * config.patch_size**2
    codec = PatchCodec(
        patch_size=config.patch_size, basis=torch.eye(size), mean=torch.zeros(size), std=torch.ones(size)
    )
    return build_generator(config, codec, 64, device).unet.eval()


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, device = options.images, options.device
    sample = torch.randn(images, 3, 64, 64, device=device)
    text, mask = torch.randn(images, 32, 384, device=device), torch.ones(images, 32, device=device)
    step = torch.full((images,), 500, device=device)
    calls: dict[str, Callable[[], object]] = {}
    for name, fine, content, style in (
        ("3 neighbors", False, 3, 0),
        ("3 neighbors, fine maps", True, 3, 0),
        ("3 content and 2 style, fine maps", True, 3, 2),
    ):
        unet, count = network(fine, style > 0, device), content + style
        maps = unet.encode_neighbors(sample[:1].expand(count, -1, -1, -1), text[:1].expand(count, -1, -1))
        rows = torch.arange(count, device=device).expand(images, count)
        roles = (rows >= content).long()

        def project(unet=unet, maps=maps, rows=rows, roles=roles) -> dict:  # type: ignore[no-untyped-def,type-arg]
            return unet.project_neighbors(maps, rows, torch.ones(rows.shape, device=device), roles)

        kv = project()
        calls.setdefault("no neighbors", lambda unet=unet: unet(sample, step, text, encoder_attention_mask=mask))
        calls[name] = lambda unet=unet, kv=kv: unet(sample, step, text, encoder_attention_mask=mask, neighbors=kv)
        calls[f"  keys and values: {name}"] = project
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.rounds + 1):
        for name, call in calls.items():
            spent = timed(call, device)
            if number:  # the first round warms up
                seconds[name].append(spent)
    medians = {name: 1000 * statistics.median(spent) / images for name, spent in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<50} {value:8.1f} ms an image   {value / medians['no neighbors']:.3f}")
    print(json.dumps({name.strip(): round(value, 2) for name, value in medians.items()}))


if __name__ == "__main__":
    main()
