"""What does a training step cost beyond its own modules: data, text, noise, average, logging?

    python benchmarks/bench_training_step.py [--root .] [--steps 12] [--rounds 3]

Compares the training loop on the configured corpus with a bare loop that computes the same steps on batches already
loaded and noised: encode neighbors, predict, loss, backward, clip, update. Both in the same process, in turns, with the
same weights at the start. The loop makes its steps twice: `cold` encodes every caption, as the first epoch does, `warm`
finds them encoded. It needs data/corpus and data/neighbors under --root.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.device import choose_device
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.own import build_generator
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.data import Batch, Batches
from rag_diffusion.training.loop import train
from rag_diffusion.training.objective import Noised
from rag_diffusion.training.optimizer import Optimizer
from rag_diffusion.training.step import TextCache, TrainingStep, batch_loss, draw_noised

TARGET = 0.95
_LEFT_OUT = 2


class Timed(Batches):
    """Notes when each step begins; after `period` steps it begins again with the first."""

    def __init__(self, *args: object, period: int) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._period = period
        self.begun: list[float] = []
        self.loading: list[float] = []

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        """See `Batches`."""
        self.begun.append(time.perf_counter())
        found = super().parts(step % self._period, rows)
        self.loading.append(time.perf_counter() - self.begun[-1])
        return found


def looped(generator: Generator, batches: Timed, config: Config, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of the training loop, cold and warm."""
    settings = config.pretrain.model_copy(
        update={"steps": 2 * steps, "checkpoint_every": 10**6, "validate_every": 10**6, "warmup_steps": 2 * steps}
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(generator, batches, settings, seed=0, scratch=Path(folder) / "run", tracker=NullTracker())
    seconds = [after - before for before, after in zip(batches.begun, batches.begun[1:], strict=False)]
    return seconds[:steps], seconds[steps:]


def bare(generator: Generator, prepared: list[tuple[Batch, Noised]], texts: TextCache, config: Config) -> list[float]:
    """Seconds of each step of the bare loop."""
    unet = generator.unet.train().to(memory_format=torch.channels_last)
    weights = dict(unet.named_parameters())
    optimizer = Optimizer(weights, config.pretrain.optimizer, config.pretrain.learning_rate)
    module = TrainingStep(generator, config.pretrain.precision, config.pretrain.neighbor_gradient)
    seconds = []
    for batch, noised in prepared:
        start = time.perf_counter()
        loss = batch_loss(module, generator, texts, batch, noised, config.pretrain)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), config.pretrain.max_grad_norm)
        optimizer.step(config.pretrain.learning_rate)
        float(loss.detach())
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = load_config("params.yaml")
    corpus = Corpus.open(options.root / layout.CORPUS)
    table = NeighborTable.open(options.root / layout.NEIGHBORS, corpus)
    torch.manual_seed(0)
    codec = PatchCodec.fit(corpus.pixels()[:2000], config.model.patch_size)
    generator = build_generator(config.model, codec, corpus.image_size, choose_device(config.device))
    start = {name: value.clone() for name, value in generator.unet.state_dict().items()}

    def make() -> Timed:
        neighbors = config.retrieval.content
        return Timed(corpus, table.training, config.pretrain, neighbors, 0, period=options.steps)

    size, batches, texts = config.pretrain.batch_size, make(), TextCache(generator.text_encoder)
    prepared = []
    for step in range(options.steps):
        batch, draws = batches[step], torch.Generator().manual_seed(step)
        prepared.append((batch, draw_noised(generator, batch.images, slice(None), size, draws)))
        texts((*batch.captions, *batch.neighbors.captions), generator.device)  # each caption is encoded once a run
    times: dict[str, list[float]] = {"bare": [], "cold": [], "warm": []}
    loading: list[float] = []
    for _ in range(options.rounds):
        generator.unet.load_state_dict(start)
        times["bare"] += bare(generator, prepared, texts, config)[_LEFT_OUT:]
        generator.unet.load_state_dict(start)
        timed = make()
        cold, warm = looped(generator, timed, config, options.steps)
        times["cold"], times["warm"] = times["cold"] + cold[_LEFT_OUT:], times["warm"] + warm
        loading += timed.loading[1:]
    report(times, statistics.median(loading), size)


def report(times: dict[str, list[float]], loading: float, size: int) -> None:
    """Print a table and a JSON line."""
    median = {name: statistics.median(values) for name, values in times.items()}
    print("| loop | steps | median s / step | images / s |\n|---|---|---|---|")
    for name, value in median.items():
        print(f"| {name} | {len(times[name])} | {value:.3f} | {size / value:.1f} |")
    share = {name: round(median["bare"] / median[name], 3) for name in ("cold", "warm")}
    print(f"speed of the bare loop that is kept: {share} (wanted: {TARGET} when warm)")
    facts = {"share": share, "loading_s": round(loading, 4), "threads": torch.get_num_threads(),
             "torch": torch.__version__, "machine": platform.machine(), "batch_size": size}  # fmt: skip
    print(json.dumps({name: round(value, 4) for name, value in median.items()} | facts))


if __name__ == "__main__":
    main()
