"""A user's own folder of images through every stage, by params.yaml alone, from the promoted base generator."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from rag_diffusion import layout
from rag_diffusion.config import load_config
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import LineageError
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.stages.context import StageContext
from rag_diffusion.tracking import NullTracker

from ..conftest import tiny_pairs

STAGES = ("ingest", "align", "embed", "index", "neighbors", "baselines", "finetune", "sample", "score")
CHANGES = {
    "corpus": {"source": "folder", "folder": {"path": "data/sources/mine", "licence": "CC0-1.0", "attribution": "me"}},
    "encoder": {"epochs": 2, "batch_size": 32},
    "finetune": {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "validate_every": 2},
    "sample": {"num_inference_steps": 2, "variants": ["none", "retrieved"]},
    "score": {"bootstrap_draws": 100},
}


def write_folder(folder: Path) -> None:
    """105 drawings with labels, and one of each kind of bad pair."""
    folder.mkdir(parents=True)
    rows = []
    for number, pair in enumerate(tiny_pairs()[:105]):
        (folder / f"{number}.png").write_bytes(pair.image)
        rows.append({"file_name": f"{number}.png", "text": pair.caption, "entity": pair.entity, "style": pair.style})
    (folder / "broken.png").write_bytes(b"\x89PNG")
    rows += [{"file_name": "broken.png", "text": "x"}, {"file_name": "gone.png", "text": "x"}]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A project that has run every stage."""
    root, origin = tmp_path_factory.mktemp("own"), request.config.rootpath
    params = yaml.safe_load((origin / "params.yaml").read_text())
    for section, values in CHANGES.items():
        params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for name in (layout.BASE, layout.RULER, layout.PROMPTS):
        shutil.copytree(origin / name, root / name)
    write_folder(root / "data/sources/mine")
    context = StageContext(config=load_config(root / "params.yaml"), root=root, tracker=NullTracker())
    for stage in STAGES:
        importlib.import_module(f"rag_diffusion.stages.{stage}").run(context)
    return root


@pytest.mark.slow
def test_every_stage_leaves_what_a_user_looks_for(project: Path) -> None:
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert {"none", "retrieved", "copied", "real"} <= set(metrics["variants"])
    assert metrics["variants"]["retrieved"]["joint"] is None, "the ruler knows no styles but its own"
    assert isinstance(metrics["variants"]["retrieved"]["kid"], (float, dict))
    assert (project / "reports/sheets/retrieved.png").stat().st_size > 10_000
    samples = pq.read_table(project / "data/samples/samples.parquet").to_pylist()
    assert {row["variant"] for row in samples} == {"none", "retrieved"}


@pytest.mark.slow
def test_bad_pairs_are_counted_in_the_manifest(project: Path) -> None:
    corpus = Corpus.open(project / layout.CORPUS)
    assert len(corpus) == 105
    assert corpus.manifest["rejected_by_reason"] == {"unreadable image": 1, "caption without an image": 1}


@pytest.mark.slow
def test_neighbors_of_another_corpus_are_refused(project: Path, tiny_corpus: Corpus) -> None:
    with pytest.raises(LineageError, match="neighbors"):
        NeighborTable.open(project / layout.NEIGHBORS, tiny_corpus)
