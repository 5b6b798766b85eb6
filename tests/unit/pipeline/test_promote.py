"""Copying what a pipeline of its own has trained to where git has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.files import tree_hash
from rag_diffusion.layout import PRETRAINED_SCORES, RULER_TRAINED
from rag_diffusion.pipeline.promote import promote_base, promote_ruler, promote_upsampler

SOURCE = "pipelines/pretrain/result"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A project with an old base, and a new one that is not finished."""
    for folder, name in (("data/base", "old.safetensors"), (SOURCE, "new.safetensors")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text(name)
    return tmp_path


def finish(root: Path, model_hash: str | None = None) -> None:
    """Give the new base its card and its scores."""
    (root / SOURCE / "card.json").write_text('{"steps": 7}')
    scores = {"model_hash": model_hash or tree_hash(root / SOURCE), "variants": {"none": {}}}
    (root / PRETRAINED_SCORES).write_text(json.dumps(scores))


def test_an_unfinished_base_is_not_promoted(trained: Path) -> None:
    with pytest.raises(DataError, match=r"card.json: expected a finished result with its card"):
        promote_base(trained)
    finish(trained)
    (trained / PRETRAINED_SCORES).unlink()
    with pytest.raises(DataError, match="expected the scores of the result"):
        promote_base(trained)
    finish(trained, model_hash="0" * 64)
    with pytest.raises(LineageError, match="expected scores of the weights"):
        promote_base(trained)

    assert [path.name for path in (trained / "data/base").iterdir()] == ["old.safetensors"]


def test_promotion_replaces_the_base_and_puts_its_scores_on_its_card(trained: Path) -> None:
    finish(trained)
    promote_base(trained)

    assert sorted(path.name for path in (trained / "data/base").iterdir()) == ["card.json", "new.safetensors"]
    card = json.loads((trained / "data/base/card.json").read_text())
    assert (card["steps"], card["scores"]["variants"]) == (7, {"none": {}})


def test_a_finished_ruler_is_promoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ruler.json: expected a finished result"):
        promote_ruler(tmp_path)
    (tmp_path / RULER_TRAINED).mkdir(parents=True)
    (tmp_path / RULER_TRAINED / "ruler.json").write_text("{}")

    assert (promote_ruler(tmp_path) / "ruler.json").is_file()


def test_an_unfinished_super_resolution_stage_is_not_promoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"card.json: expected a finished result .* `make upsampler`"):
        promote_upsampler(tmp_path)
