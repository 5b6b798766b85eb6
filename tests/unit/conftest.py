"""A small generator over the real text encoder, a neighbor table of the small corpus, a small ruler over it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.corpus.prompts import read_prompts, write_prompts
from rag_diffusion.metrics.ruler.fit import fit_scorers, make_card
from rag_diffusion.metrics.ruler.store import Ruler, load_ruler, save_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.retrieval.neighbor_table import write_neighbors
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.types import Prompt
from tests.tiny import tiny_pairs
from tests.unit.scored import EPOCHS, shown_for, validation_lists


@pytest.fixture(scope="session")
def default_config(request: pytest.FixtureRequest) -> Config:
    return load_config(request.config.rootpath / "params.yaml")


@pytest.fixture(scope="session")
def text_encoder() -> TextEncoder:
    # not 16, the cells of a map: diffusers would take the mask for one that is padded already
    return TextEncoder(max_tokens=15)


@pytest.fixture
def tiny_generator(text_encoder: TextEncoder, tiny_corpus: Corpus) -> Generator:
    """8x8 pixel patches of 64 px images; random weights, the neighbor attention included."""
    torch.manual_seed(0)
    unet = RetrievalUNet(
        sample_size=8, in_channels=192, out_channels=192, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=16,
        encoder_hid_dim=text_encoder.width, addition_embed_type="text", addition_embed_type_num_heads=8,
        neighbor_skips=(1,), neighbor_head_dim=16,
    )  # fmt: skip
    for attention in unet.neighbor_attention.values():
        torch.nn.init.normal_(attention.to_out.weight, std=0.2)
    codec = PatchCodec.fit(tiny_corpus.pixels(), 8)
    return Generator(unet=unet.eval(), codec=codec, text_encoder=text_encoder, schedule=noise_schedule(), image_size=64)


@pytest.fixture(scope="session")
def tiny_neighbors(tiny_corpus: Corpus) -> dict[str, dict[str, list[str]]]:
    """Split -> pair -> the same entity in the other styles."""
    table = tiny_corpus.table
    return {
        split: {
            row.pair_id: [
                other for other in table.loc[table["entity"] == row.entity, "pair_id"] if other != row.pair_id
            ]
            for row in table[table["split"] == split].itertuples()
        }
        for split in ("train", "validation")
    }


@pytest.fixture(scope="session")
def tiny_trunk() -> Trunk:
    return Trunk(image_size=32)


@pytest.fixture(scope="session")
def tiny_project(tiny_corpus: Corpus, tiny_trunk: Trunk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a project with corpus, prompts, neighbors and ruler; copy it before changing it."""
    root = tmp_path_factory.mktemp("scoring")
    shutil.copytree(tiny_corpus.path, root / layout.CORPUS)
    write_prompts(root, tiny_corpus)
    scorers = fit_scorers(tiny_corpus, tiny_trunk, seed=0, scratch=root / "scratch", epochs=EPOCHS)
    (root / layout.RULER).mkdir()
    card = make_card(scorers, tiny_corpus, tiny_trunk, {"clean": {"style": 1.0}}, seed=0, epochs=EPOCHS)
    save_ruler(
        root / layout.RULER, style=scorers.style, entity=scorers.entity, style_check=scorers.style_check, card=card
    )
    prompts = [
        prompt for split in ("validation", "test") for prompt in read_prompts(root / layout.PROMPTS / f"{split}.jsonl")
    ]
    (root / layout.NEIGHBORS).mkdir()
    entries = {prompt.prompt_id: shown_for(prompt, tiny_corpus) for prompt in prompts}
    validation = validation_lists(tiny_corpus)
    write_neighbors(
        root / layout.NEIGHBORS, corpus_hash=tiny_corpus.hash, training={}, validation=validation, prompts=entries
    )
    return root


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path) -> Path:
    """A copy of the project that a test may spoil."""
    return Path(shutil.copytree(tiny_project, tmp_path / "project"))


@pytest.fixture
def tiny_ruler(tiny_project: Path) -> Ruler:
    return load_ruler(tiny_project / layout.RULER)


@pytest.fixture
def tiny_prompts(tiny_project: Path) -> list[Prompt]:
    """The test prompts that the default run draws."""
    return [prompt for prompt in read_prompts(tiny_project / layout.PROMPTS / "test.jsonl") if prompt.default]


@pytest.fixture
def scoring_config(project_root: Path) -> Config:
    """The default settings with few draws, and no demand on the small ruler."""
    config = load_config(project_root / "params.yaml")
    return config.model_copy(
        update={"score": config.score.model_copy(update={"bootstrap_draws": 300, "min_real_accuracy": 0.0})}
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The tiny corpus; noto and noto-v1 draw every square alike."""
    pairs = [
        replace(pair, duplicate_group=f"alike/{pair.entity}")
        if pair.style in ("noto", "noto-v1") and pair.category == "square"
        else pair
        for pair in tiny_pairs()
    ]
    path = tmp_path_factory.mktemp("duplicates") / "data" / "corpus"
    write_corpus(path, pairs, image_size=64, facts={"rejected": [], "kind": "iconify"})
    return Corpus.open(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    path = tmp_path / "artifact"
    path.mkdir()
    return path
