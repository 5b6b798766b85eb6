"""Judgements of what stages made: on the small project as it should be, and spoilt."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_tag_name
from safetensors.numpy import save_file

from rag_diffusion.orchestration import findings
from rag_diffusion.orchestration.findings import Finding
from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.promote import label, scored
from tests.orchestration.projects import dvc, materialize, ran


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Results of all stages, in which nothing is wrong."""
    for name in ("data/corpus", "data/vectors", "data/index", "data/neighbors", "reports/plots"):
        (tmp_path / name).mkdir(parents=True)
    columns = {"pair_id": ["a", "b"], "caption": ["x", "y"], "family": ["a", "b"], "duplicate_group": ["a", "b"]}
    pq.write_table(pa.table(columns | {"split": ["train", "test"]}), tmp_path / "data/corpus/pairs-00000.parquet")
    unit = {"image": np.eye(2, dtype=np.float32), "text": np.eye(2, dtype=np.float32)}
    save_file(unit, tmp_path / "data/vectors/vectors.safetensors")
    (tmp_path / "data/index/recall.json").write_text(json.dumps({"depth": 10, "recall_text": 0.99}))
    (tmp_path / "params.yaml").write_text("index: {min_recall: 0.98}\n")
    for name in ("training", "validation"):
        pq.write_table(pa.table({"pair_id": ["a"], "neighbors": [["b"]]}), tmp_path / f"data/neighbors/{name}.parquet")
    write_prompts(tmp_path, retrieved=["b"])
    write_losses(tmp_path, 0.5, 0.4, 0.4, 0.3)
    write_gain(tmp_path, 0.05)
    return tmp_path


def write_prompts(root: Path, retrieved: list[str]) -> None:
    entry = {"exclude": ["a"], "retrieved": retrieved, "oracle": [], "random": ["b"]}
    (root / "data/neighbors/prompts.json").write_text(json.dumps({"test-0000": entry}))


def write_losses(root: Path, *losses: float) -> None:
    with (root / "reports/plots/loss.csv").open("w") as file:
        csv.writer(file).writerows([("step", "loss"), *enumerate(losses, 1)])


def write_gain(root: Path, low: float, enlarging: float = -0.01) -> None:
    gain = {"mean": low + 0.1, "low": low, "high": low + 0.2}
    cascade = {"image_size": 256, "changes": {"retrieved": {"joint": enlarging, "entity": 0.0, "style": 0.02}}}
    report = {"differences": {"retrieved-none": {"joint": gain}}, "cascade": cascade}
    (root / "reports/metrics.json").write_text(json.dumps(report))


def spoil_corpus(root: Path) -> None:
    columns = {"pair_id": ["c"], "caption": [" "], "family": ["a"], "duplicate_group": ["c"], "split": ["test"]}
    pq.write_table(pa.table(columns), root / "data/corpus/pairs-00001.parquet")


def spoil_vectors(root: Path) -> None:
    image = np.array([[np.nan, 0], [0, 1]], dtype=np.float32)
    save_file({"image": image, "text": 2 * np.eye(2, dtype=np.float32)}, root / "data/vectors/vectors.safetensors")


def spoil_lists(root: Path) -> None:
    columns = {"pair_id": ["a", "b"], "caption": ["x", "y"], "family": ["a", "a"], "duplicate_group": ["a", "a"]}
    pq.write_table(pa.table(columns | {"split": ["train"] * 2}), root / "data/corpus/pairs-00000.parquet")


@pytest.mark.parametrize(
    ("finding", "spoil", "said"),
    [
        (findings.corpus_is_whole, spoil_corpus, "families in two splits: a; pairs without a caption: c"),
        (findings.vectors_are_unit, spoil_vectors, "not finite and of length 1, rows: 0"),
        (findings.recall_is_high, lambda root: (root / "params.yaml").write_text("index: {min_recall: 1}"), "0.990"),
        (findings.no_pair_is_its_own_neighbor, spoil_lists, "their own neighbors: a"),
        (findings.no_target_is_shown, lambda root: write_prompts(root, ["b", "a"]), "shown their target: test-0000"),
        (findings.loss_is_finite_and_falls, lambda root: write_losses(root, 0.3, 0.4, 0.5, 0.6), "the loss has risen"),
        (findings.loss_is_finite_and_falls, lambda root: write_losses(root, 0.3, float("nan"), 0.2, 0.2), "step 2"),
        (findings.retrieval_helps, lambda root: write_gain(root, -0.05), "retrieved - none: +0.050 [-0.050, +0.150]"),
        (findings.enlarging_keeps_what_is_drawn, lambda root: write_gain(root, 0.1, -0.02), "joint -0.020"),
    ],
)  # fmt: skip
def test_each_finding_holds_until_it_is_spoilt(
    root: Path, finding: Callable[[Path], Finding], spoil: Callable[[Path], object], said: str
) -> None:
    good = finding(root)
    assert good.passed, good.description
    spoil(root)
    bad = finding(root)
    assert not bad.passed
    assert said in bad.description


def test_no_steps_and_no_judge_are_no_fault(root: Path) -> None:
    write_losses(root)
    assert findings.loss_is_finite_and_falls(root).passed
    (root / "reports/metrics.json").write_text(json.dumps({"reason": "other styles"}))
    assert findings.retrieval_helps(root) == Finding(True, "not judged: other styles")
    assert findings.enlarging_keeps_what_is_drawn(root) == Finding(True, "not judged: other styles")
    (root / "reports/metrics.json").write_text(json.dumps({"reason": None}))
    assert findings.enlarging_keeps_what_is_drawn(root) == Finding(True, "not judged: the model is no cascade")


@pytest.mark.slow
def test_upstream_is_clean_until_something_changes(made: Path, environment: dict[str, str]) -> None:
    assert findings.upstream_is_clean(made, "score").passed
    (made / "rag_diffusion" / "corpus" / "input").write_text("changed")
    assert findings.upstream_is_clean(made, "ingest").passed, "it is asked about what comes before"
    assert findings.upstream_is_clean(made, "embed").description == "made by other code or parameters: ingest"
    dvc(made, environment, "repro", "--single-item", "ingest")
    assert "align was made from other versions of: ingest" in findings.upstream_is_clean(made, "embed").description


@pytest.mark.slow
def test_a_blocking_check_stops_what_would_be_built_on_it(
    project: Path, project_root: Path, environment: dict[str, str]
) -> None:
    (project / "torn").touch()
    shown = materialize(project_root, environment)
    assert not shown.startswith("0\n")
    assert "corpus_is_whole" in shown
    assert ran(project) == ["ingest"]


def test_every_stage_of_the_real_pipeline_can_be_a_tag_in_mlflow(project_root: Path) -> None:
    for name in Project.load(project_root).stages:
        _validate_tag_name(f"{label(name)}.data_version")
    with pytest.raises(MlflowException):
        _validate_tag_name("sweep@text-1.data_version")


@pytest.mark.parametrize("variants", [{"none": {}}, {"retrieved": {"joint": None}}])
def test_what_is_promoted_without_a_judged_variant_is_noted_without_its_means(variants: dict[str, Any]) -> None:
    """One's own corpus: the ruler does not know its styles, or retrieval finds nothing for any of a few prompts."""
    measured = {"corpus_hash": "a", "ruler_sha256": "b", "prompts": "c"}
    assert scored({"variants": variants, **measured}) == measured | dict.fromkeys(("joint", "entity", "style"))


def test_what_is_promoted_is_noted_with_its_means() -> None:
    means = {name: {"mean": 0.5, "low": 0.4} for name in ("joint", "entity", "style")}
    report = {"variants": {"retrieved": means}, "corpus_hash": "a", "ruler_sha256": "b", "prompts": "c"}
    assert scored(report)["joint"] == 0.5
