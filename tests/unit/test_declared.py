"""What dvc.yaml says of a stage: a run carries the parameters that it reads, and lies with its family."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rag_diffusion.declared import declared, own_params
from rag_diffusion.pipeline.runner import stages
from rag_diffusion.tracking import flatten


def test_a_stage_has_its_own_parameters_alone(pytestconfig: pytest.Config) -> None:
    project_root = pytestconfig.rootpath
    everything = flatten(yaml.safe_load((project_root / "params.yaml").read_text()))
    index = own_params(project_root, "index", everything)
    assert {"seed", "index.factory", "index.min_recall", "retrieval.fusion", "retrieval.weights.bm25"} <= index.keys()
    assert {name.split(".")[0] for name in index} == {"seed", "index", "retrieval", "safety"}
    assert "retrieval.content" not in index
    score = own_params(project_root, "score", everything)
    assert {name.split(".")[0] for name in score} == {"seed", "score"}
    assert own_params(project_root, "ruler", everything).keys() < everything.keys()
    sweep = own_params(project_root, "sweep@joint-3", everything, ["sample.guidance", "retrieval.content"])
    assert {"sample.guidance", "retrieval.content", "sample.scheduler"} <= sweep.keys()
    assert "sample.batch_size" not in sweep


def test_every_stage_of_the_pipelines_is_known(pytestconfig: pytest.Config) -> None:
    project_root = pytestconfig.rootpath
    everything = {"seed": "0", "nobody.reads": "1"}
    for path in (project_root / "dvc.yaml", *(project_root / "pipelines").glob("*/dvc.yaml")):
        for stage in yaml.safe_load(path.read_text())["stages"]:
            assert "nobody.reads" not in own_params(project_root, stage, everything), stage


def test_a_stage_of_no_pipeline_has_them_all(tmp_path: Path) -> None:
    assert own_params(tmp_path, "mine", {"a.b": "1", "c": "2"}) == {"a.b": "1", "c": "2"}
    (tmp_path / "dvc.yaml").write_text("stages: {mine: {cmd: x, params: [a, {other.yaml: [c]}, {params.yaml: [d.e]}]}}")
    assert own_params(tmp_path, "mine", {"a.b": "1", "c": "2", "d.e": "3", "ab": "4"}) == {"a.b": "1", "d.e": "3"}


def test_every_stage_of_the_pipelines_has_a_family_and_a_place_for_its_notes(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.rootpath
    assert declared(root, "sweep@joint-3").family == "sweep"
    assert (declared(root, "index").notes, declared(root, "score_base").notes) == ("data/runs", "pipelines/pretrain")
    families = {declared(root, name).family for name in stages()}
    assert families == {"knowledge_base", "generator", "evaluation", "sweep"}
    assert declared(root, "mine").family == "pipeline"
