from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rag_diffusion.config import load_config
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.layout import BASE
from rag_diffusion.new_project import CARRIED, CHANGED, PICTURES, make_project, own_params, own_stages
from rag_diffusion.terminal.app import app


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository in git whose base generator is a few bytes."""
    folder = tmp_path / "clone"
    (folder / BASE).mkdir(parents=True)
    (folder / BASE / "generator.json").write_text('{"image_size": 64}\n')
    (folder / "large.bin").write_bytes(bytes(1000))
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def stages_of(text: str) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load(text)["stages"]
    return stages


def test_it_has_all_files_and_settings_that_can_be_read(tmp_path: Path, clone: Path) -> None:
    made = make_project(tmp_path / "mine", str(clone))

    assert set(made.written) == {*CARRIED, *CHANGED, "requirements.txt"}
    assert (made.kept, made.base) == ((), BASE)
    config = load_config(tmp_path / "mine/params.yaml")
    assert (config.corpus.source, config.corpus.folder.path) == ("folder", PICTURES)
    assert config.finetune.base == BASE
    assert (tmp_path / "mine/.git").is_dir()
    assert (tmp_path / "mine" / PICTURES).is_dir()


def test_stages_are_those_of_the_repository_but_for_files_of_code_and_what_the_default_corpus_needs(
    project_root: Path,
) -> None:
    text = (project_root / "dvc.yaml").read_text()
    theirs, ours = stages_of(text), stages_of(own_stages(text))

    assert ours.keys() == theirs.keys() - {"sweep"}
    for name, stage in ours.items():
        files = [dep for dep in theirs[name]["deps"] if dep.startswith("data/") and dep != "data/prompts"]
        command = f"rag-diffusion run {name}"
        assert theirs[name]["cmd"] == f"python -m {command.replace('-', '_', 1)}"
        assert stage == theirs[name] | {"cmd": command, "deps": ["requirements.txt", *files]}
    assert "data/base" in ours["finetune"]["deps"]


def test_settings_are_those_of_the_repository_but_for_the_corpus(project_root: Path) -> None:
    text = (project_root / "params.yaml").read_text()
    ours, theirs = own_params(text).splitlines(), text.splitlines()

    assert len(ours) == len(theirs)
    changed = [line.split("#")[0].strip() for line, other in zip(ours, theirs, strict=True) if line != other]
    assert changed == ["source: folder", f"path: {PICTURES}", "num_inference_steps: 20", "thresholding: static"]


def test_a_published_base_is_named_in_settings_and_no_file_of_any_stage(tmp_path: Path) -> None:
    made = make_project(tmp_path, "an-owner/a-pipeline")

    assert made.base == "an-owner/a-pipeline"
    config = load_config(tmp_path / "params.yaml").finetune
    assert (config.base, config.objective, list(config.neighbor_skips)) == (made.base, "epsilon", [6, 8])
    assert BASE not in stages_of((tmp_path / "dvc.yaml").read_text())["finetune"]["deps"]
    assert not (tmp_path / BASE).exists()


def test_nothing_is_written_over(tmp_path: Path, clone: Path) -> None:
    make_project(tmp_path / "mine", str(clone))
    (tmp_path / "mine/params.yaml").write_text("seed: 7\n")
    (tmp_path / "mine/.gitignore").unlink()
    again = make_project(tmp_path / "mine", str(clone))

    assert again.written == (".gitignore",)
    assert "params.yaml" in again.kept
    assert (tmp_path / "mine/params.yaml").read_text() == "seed: 7\n"


def test_the_base_is_fetched_from_a_git_url(tmp_path: Path, clone: Path) -> None:
    make_project(tmp_path / "mine", clone.as_uri())

    assert (tmp_path / "mine" / BASE / "generator.json").read_text() == '{"image_size": 64}\n'
    assert not (tmp_path / "mine/large.bin").exists()


def test_a_git_url_without_a_base_is_refused_with_what_git_said(tmp_path: Path, clone: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected git to fetch it, got .*nothing"):
        make_project(tmp_path / "mine", (tmp_path / "nothing").as_uri())
    subprocess.run(["git", "rm", "-rq", BASE], cwd=clone, check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "b"], cwd=clone, check=True)
    with pytest.raises(DataError, match="expected data/base/generator.json in that repository, found none"):
        make_project(tmp_path / "mine", clone.as_uri())


def test_a_folder_that_is_no_generator_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"--base .*empty: expected a generator of ours"):
        make_project(tmp_path / "mine", str(tmp_path / "empty"))


def test_without_git_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="expected git on PATH"):
        make_project(tmp_path / "mine")


def test_the_command_says_what_it_did_and_what_comes_next(tmp_path: Path, clone: Path) -> None:
    words = ["init", str(tmp_path / "mine"), "--base", str(clone)]
    first, second = (CliRunner().invoke(app, words).output for _ in range(2))

    assert f"{len(CARRIED) + len(CHANGED) + 1} files written" in first
    assert "base generator: data/base" in first
    assert "dvc repro" in first
    assert "nothing to write" in second
    assert "kept as they were" in second
