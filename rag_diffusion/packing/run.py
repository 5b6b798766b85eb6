"""Train a pack and bring the result into one folder, in parts that a transfer with a limit takes.

OUT/model/              the generator, as `save_generator` writes it, weights in parts of at most `--part-mb`
OUT/log.json            losses and neighbor gains by step, times, hardware
OUT/curve.json          the shift and scale curve at the end
OUT/samples.png         drawings of validation prompts beside their neighbors
OUT/drawings.npz        all of them, by guidance
OUT/checkpoint/         where a run that was stopped goes on
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rag_diffusion.config import Config, load_config
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import EXTENSIONS, save_generator
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.models.own import build_generator, load_own
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.packing.layout import MANIFEST, PROMPTS, TEXT_ENCODER, VALIDATION
from rag_diffusion.packing.text_encoder import restore
from rag_diffusion.packing.unpack import open_corpus
from rag_diffusion.progress import show_log
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.candidates import same_entity
from rag_diffusion.training.card import make_card, read_card, refuse_seen, write_card
from rag_diffusion.training.data import Batches
from rag_diffusion.training.loop import TrainResult, train
from rag_diffusion.training.processes import open_accelerator
from rag_diffusion.training.validation import make_probe, placement_curve

_LOG = logging.getLogger(__name__)

_FITTED = 4096  # images that the codec is fitted to
_DRAWN_AT_ONCE = 256
_SHEET = 24  # prompts on the sheet
# (text scale, neighbor scale, content neighbors, style neighbors)
_GUIDANCE = ((3.0, 6.0, 3, 0), (3.0, 6.0, 3, 3), (2.0, 3.0, 3, 3), (1.5, 1.5, 3, 3))


def main(pack: Path, arguments: Sequence[str] | None = None) -> None:
    """Render, train, draw, write; see the module's docstring.

    Args:
        pack: its folder.
        arguments: of the command line; None reads those of this process.
    """
    parser = argparse.ArgumentParser(description="Train what this folder holds.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the result")
    parser.add_argument("--minutes", type=float, default=0.0, help="from now to the last file; 0: pretrain.max_minutes")
    parser.add_argument("--spare", type=float, default=1.0, help="minutes of them for drawing and writing")
    parser.add_argument("--part-mb", type=float, default=15.0, help="largest part of the weights")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE in place of params.yaml's")
    parser.add_argument("--prompts", type=int, default=0, help="validation prompts to draw; 0: all")
    parser.add_argument("--probe", type=int, default=96, help="validation pairs of the neighbor gain")
    options = parser.parse_args(arguments)
    show_log()
    start = time.monotonic()
    config = load_config(pack / "params.yaml", dict(setting.split("=", 1) for setting in options.set))
    manifest = json.loads((pack / MANIFEST).read_text())
    corpus = open_corpus(pack, config.corpus.image_size, manifest["corpus_hash"])
    _log(start, f"{len(corpus)} pairs")
    accelerator = open_accelerator(config.device)
    text_encoder = restore(pack / TEXT_ENCODER)
    base = _card_of_start(config, corpus)
    begin = _fresh if base is None else _started
    generator = begin(config, corpus, text_encoder, accelerator.device)
    candidates = same_entity(corpus, config.pretrain.focus_styles)
    batches = Batches(corpus, candidates, config.pretrain, config.retrieval.content, config.seed, accelerator.device)
    validation = _known(json.loads((pack / VALIDATION).read_text()), corpus)
    probe = make_probe(generator, corpus, validation, config.retrieval.content, options.probe, config.seed)
    _log(start, f"{batches.num_pairs} training pairs")
    left = options.minutes - (time.monotonic() - start) / 60 - options.spare
    minutes = max(left, 0.01) if options.minutes else config.pretrain.max_minutes
    settings = config.pretrain.model_copy(update={"max_minutes": minutes})
    options.out.mkdir(parents=True, exist_ok=True)
    result = train(
        generator,
        batches,
        settings,
        seed=config.seed,
        scratch=options.out / "checkpoint",
        tracker=NullTracker(),
        probe=probe,
        accelerator=accelerator,
    )
    _log(start, f"{result.images_seen} images seen")
    card = make_card(corpus, list(candidates), result, _settings(config), base=base)
    _write(options.out, generator, card, result, manifest["text_encoder"], options.part_mb)
    curve = placement_curve(generator, probe)
    (options.out / "curve.json").write_text(json.dumps(curve, indent=1))
    _draw(options.out, generator, corpus, json.loads((pack / PROMPTS).read_text()), options.prompts, config)
    _log(start, "done")


def _fresh(config: Config, corpus: Corpus, text_encoder: Path, device: torch.device) -> Generator:
    torch.manual_seed(config.seed)
    style, focus = corpus.column("style"), sorted(config.pretrain.focus_styles)
    chosen = (corpus.column("split") == "train") & (np.isin(style, focus) if focus else True)
    rows = np.random.default_rng(config.seed).permutation(np.flatnonzero(chosen))[:_FITTED]
    codec = PatchCodec.fit(corpus.pixels(np.sort(rows)), config.model.patch_size)
    model = config.model.model_copy(update={"text_encoder": str(text_encoder)})
    return build_generator(model, codec, config.corpus.image_size, device)


def _card_of_start(config: Config, corpus: Corpus) -> dict[str, Any] | None:
    """The card of `pretrain.start`, which here is a folder's path; None where there is none."""
    if not config.pretrain.start:
        return None
    card = read_card(Path(config.pretrain.start))
    refuse_seen(card, corpus, config.pretrain.start)
    return card


def _started(config: Config, corpus: Corpus, text_encoder: Path, device: torch.device) -> Generator:
    """The generator of `pretrain.start` with what `model` asks of the neighbor attention."""
    extended = {name: getattr(config.model, name) for name in EXTENSIONS}
    return load_own(Path(config.pretrain.start), device, str(text_encoder), **extended)


def _settings(config: Config) -> dict[str, Any]:
    settings = {"model": config.model.model_dump(), "pretrain": config.pretrain.model_dump(), "seed": config.seed}
    return settings | {"num_neighbors": config.retrieval.content}


def _known(lists: Mapping[str, Sequence[str]], corpus: Corpus) -> dict[str, list[str]]:
    """The lists whose pairs are all in the pack."""
    ids = set(corpus.column("pair_id"))
    return {name: list(neighbors) for name, neighbors in lists.items() if ids.issuperset([name, *neighbors])}


def _write(
    out: Path, generator: Generator, card: dict[str, Any], result: TrainResult, text_encoder: str, part_mb: float
) -> None:
    """Weights in parts, card and log."""
    assert isinstance(generator.text_encoder, TextEncoder)
    generator.text_encoder.name = text_encoder  # that of the pack is a smaller copy of it
    folder = out / "model"
    folder.mkdir(exist_ok=True)
    save_generator(generator, folder)
    write_card(folder, card)
    for path in sorted(folder.rglob("*.safetensors")):
        _split(path, int(part_mb * 1_000_000))
    log = {"losses": result.losses, "gains": result.gains, "seconds": result.seconds, "images": result.images_seen}
    (out / "log.json").write_text(json.dumps(log))


def _split(path: Path, size: int) -> None:
    """A large file as NAME.part0, NAME.part1, ...; `cat NAME.part*` is the file again."""
    content = path.read_bytes()
    if len(content) > size:
        for number, start in enumerate(range(0, len(content), size)):
            path.with_name(f"{path.name}.part{number}").write_bytes(content[start : start + size])
        path.unlink()


def _draw(
    out: Path, generator: Generator, corpus: Corpus, prompts: list[dict[str, Any]], most: int, config: Config
) -> None:
    """Validation prompts by several guidances; all drawings, and a sheet of a few."""
    ids = set(corpus.column("pair_id"))
    prompts = [prompt for prompt in prompts if ids.issuperset([*prompt["retrieved"], *prompt["style"]])]
    prompts = prompts[: most or len(prompts)]
    pipeline = RetrievalPipeline(generator, precision=config.sample.precision)
    pipeline.set_progress_bar_config(disable=True)
    drawn: dict[str, np.ndarray] = {}
    for text, neighbor, content, style in _GUIDANCE:
        guidance = Guidance(mode="alternate", text_guidance_scale=text, neighbor_guidance_scale=neighbor)
        drawn[f"{text:g}-{neighbor:g}-{content}-{style}"] = _drawings(
            pipeline, corpus, prompts, guidance, content, style
        )
    names = np.array([prompt["prompt_id"] for prompt in prompts])
    np.savez_compressed(out / "drawings.npz", **(drawn | {"prompts": names}))  # type: ignore[arg-type]
    rows = np.linspace(0, len(prompts) - 1, min(_SHEET, len(prompts))).astype(int)
    neighbors = [np.concatenate(list(_square(corpus, prompts[row]["retrieved"][:3])), 0) for row in rows]
    drawings = [[images[row] for images in drawn.values()] for row in rows]
    columns = [np.concatenate([top, *below], 0) for top, below in zip(neighbors, drawings, strict=True)]
    Image.fromarray(np.concatenate(columns, 1)).save(out / "samples.png")


def _square(corpus: Corpus, names: Sequence[str]) -> list[np.ndarray]:
    images = list(corpus.pixels(corpus.rows(names)))
    return images + [np.full((corpus.image_size, corpus.image_size, 3), 255, np.uint8)] * (3 - len(images))


def _drawings(
    pipeline: RetrievalPipeline,
    corpus: Corpus,
    prompts: list[dict[str, Any]],
    guidance: Guidance,
    content: int,
    style: int,
) -> np.ndarray:
    """(P, H, W, 3) drawings with so many neighbors of each role."""
    parts = []
    for start in range(0, len(prompts), _DRAWN_AT_ONCE):
        batch = prompts[start : start + _DRAWN_AT_ONCE]
        lists = [
            neighbors_from(corpus, prompt["retrieved"][:content])
            + neighbors_from(corpus, prompt["style"][:style], role="style")
            for prompt in batch
        ]
        seeds = seeded([prompt["seed"] for prompt in batch])
        drawn = pipeline([prompt["text"] for prompt in batch], lists, guidance=guidance, generator=seeds)
        parts.append(as_arrays(drawn.images))
    return np.concatenate(parts)


def _log(start: float, what: str) -> None:
    _LOG.info("%7.1f s: %s", time.monotonic() - start, what)
