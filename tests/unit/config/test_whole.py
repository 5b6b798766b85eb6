from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_diffusion.config import load_config
from rag_diffusion.errors import ConfigError


@pytest.fixture
def params(project_root: Path) -> dict[str, Any]:
    """The repository's params.yaml."""
    content: dict[str, Any] = yaml.safe_load((project_root / "params.yaml").read_text())
    return content


def written(folder: Path, params: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(params if isinstance(params, str) else yaml.safe_dump(params))
    return path


def test_the_repositorys_own_file_loads_with_its_values(project_root: Path, params: dict[str, Any]) -> None:
    config = load_config(project_root / "params.yaml")

    assert config.model_dump() == params


def test_a_loaded_configuration_cannot_be_changed(project_root: Path) -> None:
    config = load_config(project_root / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.sample.batch_size = 3


@pytest.mark.parametrize("where", ["", "sample", "corpus.iconify"])
def test_an_unknown_key_is_named_with_its_place(tmp_path: Path, params: dict[str, Any], where: str) -> None:
    section = params
    for key in filter(None, where.split(".")):
        section = section[key]
    section["guidence"] = 1
    name = ".".join(filter(None, [where, "guidence"]))

    with pytest.raises(ConfigError, match=rf"  {name}: unknown key; remove it or correct its spelling"):
        load_config(written(tmp_path, params))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("sample", "batch_size", "24", r"sample.batch_size: .*valid integer, got '24' \(str\)"),
        ("sample", "batch_size", True, r"sample.batch_size: .*valid integer, got True \(bool\)"),
        ("sample", "batch_size", 0, r"sample.batch_size: .*greater than 0, got 0 \(int\)"),
        (
            "finetune",
            "learning_rate",
            "5e-5",
            r"finetune.learning_rate: .*valid number, got '5e-5' \(str\)",
        ),
        ("finetune", "drop_text", 1.5, r"finetune.drop_text: .*less than or equal to 1, got 1.5"),
        (
            "finetune",
            "precision",
            "int8",
            r"finetune.precision: .*'auto', 'fp32', 'bf16' or 'fp16', got 'int8'",
        ),
        ("finetune", "weighting", "cosine", r"finetune.weighting: .*'min_snr' or 'p2', got 'cosine'"),
        ("finetune", "trainable", "some", r"finetune.trainable: .*'neighbors' or 'lora', got 'some'"),
        ("pretrain", "trainable", "all", r"pretrain.trainable: unknown key"),
        ("corpus", "source", "web", r"corpus.source: .*'iconify' or 'folder', got 'web'"),
        ("corpus", "split", None, r"corpus.split: .*got None \(NoneType\)"),
        (
            "model",
            "neighbor_skips",
            "0,2",
            r"model.neighbor_skips: .*valid list, got '0,2' \(str\)",
        ),
        ("retrieval", "lexical", "lucene", r"retrieval.lexical: Input should be 'sparse' or 'rank_bm25', got 'lucene'"),
        ("retrieval", "fusion", "max", r"retrieval.fusion: Input should be 'sum', 'product' or 'reciprocal_rank'"),
        ("retrieval", "selection", "best", r"retrieval.selection: Input should be 'top_k', 'threshold' or 'both'"),
        ("retrieval", "max_neighbors", 17, r"retrieval.max_neighbors: .*less than or equal to 16"),
        ("retrieval", "diversity", -0.1, r"retrieval.diversity: .*greater than or equal to 0"),
        ("retrieval", "rank_constant", 0, r"retrieval.rank_constant: .*greater than 0"),
        ("retrieval", "content", 17, r"retrieval.content: .*less than or equal to 16"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected_and_what_came(
    tmp_path: Path, params: dict[str, Any], section: str, key: str, value: object, message: str
) -> None:
    params[section][key] = value
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, params))


def test_a_missing_key_says_where_its_default_stands(tmp_path: Path, params: dict[str, Any]) -> None:
    del params["score"]["bootstrap_draws"]
    with pytest.raises(ConfigError, match=r"score\.bootstrap_draws: missing; add it .*params\.yaml"):
        load_config(written(tmp_path, params))


def test_all_faults_are_told_at_once(tmp_path: Path, params: dict[str, Any]) -> None:
    params["seed"] = "zero"
    params["extra"] = {}
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, params))

    assert "  seed: " in str(caught.value)
    assert "  extra: unknown key" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "expected YAML, got text that does not parse"),
        ("- a\n- b\n", "expected a mapping of sections, got list"),
        ("", "expected a mapping of sections, got NoneType"),
    ],
)
def test_text_that_is_no_parameter_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, text))


def test_a_missing_file_says_to_run_from_the_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a parameter file, found none; run from the project"):
        load_config(tmp_path / "params.yaml")
