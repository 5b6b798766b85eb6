"""align, embed, index and neighbors on a small corpus, with the real encoder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from rag_diffusion.config import Config, FusionWeights, load_config
from rag_diffusion.corpus.prompts import write_prompts
from rag_diffusion.errors import ConfigError, LineageError
from rag_diffusion.files import file_hash, tree_hash
from rag_diffusion.layout import CORPUS, ENCODER, INDEX, NEIGHBORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval import factories
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.calibration import CALIBRATION_FILE, Calibration
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.retrieval.query import Query
from rag_diffusion.stages import align, embed, index, neighbors
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.terminal.app import app
from rag_diffusion.tracking import NullTracker
from tests.integration.same_hits import differences, measure
from tests.tiny import tiny_pairs

pytestmark = pytest.mark.slow


class Memory(NullTracker):
    """Keeps the last value of each metric."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.artifacts: dict[str, str] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics |= metrics

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.artifacts[f"{folder}/{path.name}"] = path.read_text()


def context(root: Path, config: Config) -> StageContext:
    return StageContext(config=config, root=root, tracker=Memory())


def weights(**given: float) -> FusionWeights:
    """Of the similarities; 0 for those that are not given."""
    return FusionWeights(**{"bm25": 0.0, "tf_idf": 0.0, "text_to_text": 0.0, "text_to_image": 0.0} | given)


@pytest.fixture(scope="module")
def config(request: pytest.FixtureRequest) -> Config:
    default = load_config(request.config.rootpath / "params.yaml")
    small = {"image_size": 32, "embed_dim": 32, "epochs": 10, "batch_size": 64}
    return default.model_copy(update={"encoder": default.encoder.model_copy(update=small)})


@pytest.fixture(scope="module")
def project(tiny_corpus: Corpus, config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Memory]:
    """A project after the four stages."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("retrieval")
    shutil.copytree(tiny_corpus.path, root / CORPUS)
    write_prompts(root, tiny_corpus)
    ctx = context(root, config)
    for stage in (align, embed, index, neighbors):
        stage.run(ctx)
    assert isinstance(ctx.tracker, Memory)
    return root, ctx.tracker


def test_all_stages_leave_their_artifacts_and_metrics(project: tuple[Path, Memory]) -> None:
    root, tracker = project
    assert (root / ENCODER / "open_clip_config.json").is_file()
    assert json.loads((root / INDEX / "recall.json").read_text())["recall_text"] == 1.0
    report = json.loads(tracker.artifacts["index/recall.json"])
    assert (report["passed"], report["caption_queries"], report["num_pairs"]) == (True, 64, 420)
    assert tracker.metrics["validation_all_entity_recall_3"] > 0.6
    assert tracker.metrics["train_same_entity"] > 0.5
    assert tracker.metrics["train_entities"] == 40
    calibration = Calibration.load(root / INDEX / CALIBRATION_FILE, encoder_hash=tree_hash(root / ENCODER))
    assert calibration.fitted
    assert tracker.metrics["calibration_error"] == calibration.expected_calibration_error
    assert json.loads(tracker.artifacts["index/calibration.json"])["num_queries"] == calibration.num_queries
    table = NeighborTable.open(root / NEIGHBORS, Corpus.open(root / CORPUS))
    assert (len(table.training), len(table.validation), len(table.prompts)) == (280, 56, 60)


def test_encoder_saw_no_validation_or_test_family(project: tuple[Path, Memory]) -> None:
    root = project[0]
    seen = json.loads((root / ENCODER / "training.json").read_text())
    table = Corpus.open(root / CORPUS).table
    assert not set(seen["families"]) & set(table.loc[table["split"] != "train", "family"])


def test_what_is_stored_and_found_is_the_same_again(
    project: tuple[Path, Memory], config: Config, tmp_path: Path
) -> None:
    root = shutil.copytree(project[0], tmp_path / "before")
    (root / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (tmp_path / "now").mkdir()
    found = measure(root, tmp_path / "now")
    assert found["files"] == {name: file_hash(project[0] / name) for name in found["files"]}
    assert len(found["files"]) >= 10
    ours, theirs = found["hits"]["pipeline"], found["hits"]["knowledge base"]
    assert [one["pair_ids"] for one in ours] == [one["pair_ids"] for one in theirs]
    scores = [[score for hits in found for score in hits["scores"]] for found in (ours, theirs)]
    np.testing.assert_allclose(*scores, atol=2e-6)
    assert len(scores[0]) > 1000


def test_what_is_not_the_same_is_told() -> None:
    before = {"hash": "a", "files": {"x": "1", "y": "2"}, "hits": {"here": [{"pair_ids": ["p"], "scores": [0.5]}]}}
    now = {"hash": "b", "files": {"x": "1", "y": "3"}, "hits": {"here": [{"pair_ids": ["q"], "scores": [0.25]}]}}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "corpus: hash a, now b",
        "y: 2, now 3",
        "here: other pairs for 1 of 1 queries, scores by at most 0.250000",
    ]


def test_moved_project_retrieves_new_texts(project: tuple[Path, Memory], config: Config, tmp_path: Path) -> None:
    root = shutil.copytree(project[0], tmp_path / "moved")
    hits = pipeline_retriever(root, config).search(Query(["some purple diamonds"], top_k=3)).hits[0]
    assert {pair_id.rsplit("/", 1)[1] for pair_id in hits.pair_ids} == {"purple-diamond"}


def test_artifacts_of_another_corpus_or_encoder_are_refused(
    project: tuple[Path, Memory], config: Config, tmp_path: Path
) -> None:
    root = shutil.copytree(project[0], tmp_path / "other")
    (root / ENCODER / "training.json").write_text("{}")
    with pytest.raises(LineageError, match="expected vectors of encoder .* made by encoder"):
        pipeline_retriever(root, config)
    shutil.copy(project[0] / ENCODER / "training.json", root / ENCODER)
    moved = [replace(pair, split="test") for pair in tiny_pairs()]
    facts = {"rejected": [], "kind": "iconify"}
    write_corpus(root / CORPUS, moved, image_size=64, facts=facts)
    with pytest.raises(LineageError, match=r"has seen \[.*run the stage `align` again"):
        embed.run(context(root, config))
    for stage, name in ((index, "embed"), (neighbors, "embed")):
        with pytest.raises(LineageError, match=f"run the stage `{name}` again"):
            stage.run(context(root, config))


def test_index_below_the_wanted_recall_is_refused_and_the_old_one_kept(
    project: tuple[Path, Memory], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "EXACT_BELOW", 100)
    root = shutil.copytree(project[0], tmp_path / "coarse")
    coarse = config.index.model_copy(update={"factory": "PQ2x4"})
    ctx = context(root, config.model_copy(update={"index": coarse}))
    with pytest.raises(ConfigError, match=r"recall@10 of at least 0.98 .*'PQ2x4'"):
        index.run(ctx)
    assert isinstance(ctx.tracker, Memory)
    report = json.loads(ctx.tracker.artifacts["index/recall.json"])
    assert not report["passed"]
    assert max(report["recall_text"], report["recall_text_short"]) < 0.98
    assert tree_hash(root / INDEX) == tree_hash(project[0] / INDEX)


def test_rank_bm25_by_choice_gives_the_same_hits(project: tuple[Path, Memory], config: Config) -> None:
    root = project[0]
    ours = config.retrieval.model_copy(update={"weights": weights(bm25=0.5, text_to_text=0.5)})
    theirs = ours.model_copy(update={"lexical": "rank_bm25"})
    queries = ["some purple diamonds", "green moon in noto style", "nothing known"]
    found = [
        pipeline_retriever(root, one).search(Query(queries, top_k=10)).hits
        for one in (config.model_copy(update={"retrieval": retrieval}) for retrieval in (ours, theirs))
    ]
    assert found[0] == found[1]


def test_tf_idf_joins_where_it_has_a_weight(project: tuple[Path, Memory], config: Config) -> None:
    root = project[0]
    chosen = config.retrieval.model_copy(update={"weights": weights(bm25=0.5, tf_idf=1.0, text_to_text=0.5)})
    hits = (
        pipeline_retriever(root, config.model_copy(update={"retrieval": chosen}))
        .search(Query(["red ring"], top_k=3))
        .hits[0]
    )
    assert hits.parts["tf_idf"][0] == pytest.approx(0.5)


def test_search_by_command_prints_hits_and_writes_why(project: tuple[Path, Memory], tmp_path: Path) -> None:
    root = shutil.copytree(project[0], tmp_path / "asked")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", root)
    page = tmp_path / "page.html"
    found = CliRunner().invoke(
        app, ["kb", "search", "a lovely red moon", "--root", str(root), "--top-k", "3", "--explain", str(page)]
    )
    assert found.exit_code == 0, found.output
    assert len(re.findall(r"(?m)^[01]\.\d{4}  tiny/\S+/red-moon +red moon, \S+ style +\(bm25 .*\)$", found.output)) == 3
    assert "in no caption: lovely" in found.output
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "text_to_text" in html
