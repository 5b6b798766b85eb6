"""A project whose one stage is the real `finetune`, on the small corpus, from a base with random weights."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from rag_diffusion import layout
from rag_diffusion.config import load_config
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.load import save_generator
from rag_diffusion.models.own import build_generator
from rag_diffusion.retrieval.neighbor_table import write_neighbors
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import write_card
from rag_diffusion.types import Hits

STEPS, EVERY = 24, 2
MODEL = {"patch_size": 8, "block_out_channels": [32, 64], "neighbor_skips": [1], "neighbor_head_dim": 32,
         "neighbor_fine_skips": []}  # fmt: skip
FINETUNE = {"steps": STEPS, "batch_size": 4, "group_size": 4, "warmup_steps": 2, "checkpoint_every": EVERY,
            "validate_every": 12, "precision": "fp32", "learning_rate": 0.001}  # fmt: skip
OUTS = [layout.MODEL, f"{layout.RUNS}/finetune.run.json"]


def make_training_project(root: Path, origin: Path, corpus: Corpus, environment: Mapping[str, str]) -> Path:
    """Write it to `root`, in git and DVC; never run."""
    params = yaml.safe_load((origin / "params.yaml").read_text())
    params["model"] |= MODEL
    params["finetune"] |= FINETUNE
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(corpus.path, root / layout.CORPUS)
    _write_base(root, corpus)
    _write_neighbors(root, corpus)
    stage = {
        "cmd": "python -m rag_diffusion run finetune",
        "deps": [layout.CORPUS, layout.NEIGHBORS, layout.BASE],
        "params": ["finetune"],
        "outs": OUTS,
        "plots": [f"{layout.REPORTS}/plots/loss.csv"],
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"finetune": stage}}))
    (root / ".dvcignore").write_text("mlruns/\ndata/.scratch/\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q", "-f"]):
        subprocess.run(command, cwd=root, check=True, env=environment)
    return root


def _write_base(root: Path, corpus: Corpus) -> None:
    torch.manual_seed(0)
    codec = PatchCodec.fit(corpus.pixels(), 8)
    generator = build_generator(load_config(root / "params.yaml").model, codec, corpus.image_size, "cpu")
    (root / layout.BASE).mkdir()
    save_generator(generator, root / layout.BASE)
    write_card(root / layout.BASE, {"name": "random weights", "train_entities": [], "train_families": []})


def _write_neighbors(root: Path, corpus: Corpus) -> None:
    """Of each pair its entity in the other styles."""
    table = corpus.table
    lists: dict[str, dict[str, Hits]] = {"train": {}, "validation": {}}
    for row in table[table["split"].isin(lists)].itertuples():
        others = [one for one in table.loc[table["entity"] == row.entity, "pair_id"] if one != row.pair_id]
        lists[row.split][row.pair_id] = Hits(pair_ids=tuple(others), scores=tuple(1.0 for _ in others), parts={})
    folder = root / layout.NEIGHBORS
    folder.mkdir()
    write_neighbors(
        folder, corpus_hash=corpus.hash, training=lists["train"], validation=lists["validation"], prompts={}
    )
