"""What does `kb add` of a folder of images cost beside the bare forward of both towers?

    python benchmarks/bench_embedding.py [--images 608] [--rounds 5]

The forward gets batches that are prepared already, and as many workers. Bare forward, reading and embedding, and all of
`kb add` take turns, and the best round of each counts, on the clock and by CPU time: the latter tells the truth on a
machine with other work. Small PNG, and photographs as JPEG; each in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_knowledge_base import SIDE, apart, png, print_table
from bench_lexical import synthetic
from PIL import Image

from rag_diffusion.config import load_config
from rag_diffusion.knowledge.ingest import BATCH, Ingest
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import CORPUS, ENCODER
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.threads import in_order
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.store.staging import Staging


def embed(images: int, kind: str, rounds: int) -> dict[str, float]:
    """Rates and shares of one kind of image."""
    encoder = Encoder(Path(ENCODER))
    times: dict[str, list[tuple[float, float]]] = {"bare": [], "streamed": [], "added": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        captions = _folder(root / "photos", images, kind)
        facts = Manifest(name="photos", form="imagefolder", image_size=SIDE, encoder_hash=encoder.hash)
        stream = Ingest(facts, encoder).fill
        for number in range(rounds):
            times["bare"].append(_bare(encoder, captions))
            parts, base = root / f"parts-{number}", KnowledgeBase(root / f"base-{number}", load_config(), encoder)
            times["streamed"].append(_timed(stream, Staging(parts, {}), open_reader("image_text", root / "photos")))
            times["added"].append(_timed(base.add, "photos", open_reader("image_text", root / "photos")))
    best = {name: [min(one) for one in zip(*found, strict=True)] for name, found in times.items()}
    return (
        {"images": images, "rounds": rounds}
        | {f"{name}_per_second": images / seconds for name, (seconds, _) in best.items()}
        | {f"{name}_cpu_ms": 1000 * cpu / images for name, (_, cpu) in best.items()}
        | {f"{name}_share": best["bare"][0] / best[name][0] for name in ("streamed", "added")}
        | {f"{name}_cpu_share": best["bare"][1] / best[name][1] for name in ("streamed", "added")}
    )


def _timed(run: Callable[..., object], *arguments: Any) -> tuple[float, float]:
    """Seconds on the clock, and of all cores together."""
    start, cpu = time.perf_counter(), time.process_time()
    run(*arguments)
    return time.perf_counter() - start, time.process_time() - cpu


def _folder(folder: Path, images: int, kind: str) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    captions = list(synthetic(Corpus.open(CORPUS).table["caption"].tolist(), images, seed=0))
    for number, caption in enumerate(captions):
        tiles = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        if kind == "png":
            (folder / f"{number:06d}.png").write_bytes(png(tiles[:8, :8]))
        else:
            picture = Image.fromarray(tiles).resize((640, 480), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number:06d}.jpg", quality=90)
        (folder / f"{number:06d}.txt").write_text(caption)
    return captions


def _bare(encoder: Encoder, captions: Sequence[str]) -> tuple[float, float]:
    """Seconds of both towers over as many images and captions, in batches as they come, prepared already."""
    rng, towers = np.random.default_rng(0), encoder.encoder
    batches = [captions[start : start + BATCH] for start in range(0, len(captions), BATCH)]
    parts: list[Any] = []
    for texts in batches:
        pixels = rng.integers(0, 255, (len(texts), SIDE, SIDE, 3), dtype=np.uint8)
        tokens = [one for _, one in encoder.token_batches(sorted(set(texts)))]
        parts.append((encoder.prepared(pixels), tokens))

    def forward(part: Any) -> None:
        with torch.inference_mode():
            towers.image_head(towers.image_trunk(part[0]))
            for tokens in part[1]:
                towers.text_head(towers.text_trunk(tokens.to(encoder.device)))

    list(in_order(forward, parts[:2]))
    return _timed(lambda: list(in_order(forward, parts)))


def main() -> None:
    """Both kinds."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--images", type=int, default=608)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    print_table([{"kind": kind} | apart(embed, options.images, kind, options.rounds) for kind in ("png", "jpeg")])


if __name__ == "__main__":
    main()
