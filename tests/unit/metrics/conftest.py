"""A small ruler over the small corpus, and a project with everything that scoring reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.corpus.prompts import read_prompts, write_prompts
from rag_diffusion.metrics.report import LEAST
from rag_diffusion.metrics.ruler.fit import fit_scorers, make_card
from rag_diffusion.metrics.ruler.store import Ruler, load_ruler, save_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.retrieval.neighbors import PromptNeighbors, write_neighbors
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits, Prompt

EPOCHS = 4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve prompts stand for the hundred of a real run; test_report has the true least sizes."""
    for name in LEAST:
        monkeypatch.setitem(LEAST, name, 2)


@pytest.fixture(scope="session")
def tiny_trunk() -> Trunk:
    return Trunk(image_size=32)


@pytest.fixture(scope="session")
def tiny_project(tiny_corpus: Corpus, tiny_trunk: Trunk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a project with corpus, prompts, neighbors and ruler; copy it before changing it."""
    torch.set_num_threads(1)
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


def validation_lists(corpus: Corpus) -> dict[str, Hits]:
    """Of each validation pair its entity in other styles."""
    held = corpus.table[corpus.table["split"] == "validation"]
    lists = {
        row.pair_id: [other for other in held.loc[held["entity"] == row.entity, "pair_id"] if other != row.pair_id]
        for row in held.itertuples()
    }
    return {name: Hits(pair_ids=tuple(ids), scores=(1.0,) * len(ids), parts={}) for name, ids in lists.items()}


def shown_for(prompt: Prompt, corpus: Corpus) -> PromptNeighbors:
    """Two drawings of the entity, then one of another; the oracle sees the same two and a third."""
    table = corpus.table
    own = table[(table["entity"] == prompt.entity) & (table["style"] != prompt.style)]["pair_id"].tolist()
    target = table[(table["entity"] == prompt.entity) & (table["style"] == prompt.style)]["pair_id"].tolist()
    others = table[(table["family"] != prompt.family) & (table["style"] != prompt.style)]["pair_id"].tolist()
    start = prompt.seed % (len(others) - 3)
    return PromptNeighbors(exclude=tuple(target), retrieved=(*own[:2], others[start]), scores=(0.9, 0.8, 0.1), parts={},
                           oracle=tuple(own[:3]), random=tuple(others[start : start + 3]))  # fmt: skip


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


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Images of nothing."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
