"""`rag-diffusion kb add` of what lies elsewhere, as somebody types it, and the way back by `kb push`."""

from __future__ import annotations

from pathlib import Path

import datasets
import fsspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from rag_diffusion.knowledge import writer
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval.query import Query
from rag_diffusion.terminal.app import app
from tests.unit.knowledge.bases import items
from tests.unit.readers.pictures import picture, tar_of
from tests.unit.serving.served import two_data_sets


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """A project with two data sets."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text((project_root / "params.yaml").read_text())
    two_data_sets(root, project_root)
    return root


def typed(root: Path, *words: str) -> Result:
    done = CliRunner().invoke(app, ["kb", *words, "--root", str(root)])
    assert done.exit_code == 0, done.output
    return done


def test_a_pushed_knowledge_base_is_added_again(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pushed"
    typed(project, "push", "me/shapes", "--data-set", "noto", "--out", str(folder))
    assert sum(len(part) for part in datasets.load_dataset(str(folder), cache_dir=str(tmp_path)).values()) == 60
    told = typed(project, "add", "again", str(folder), "--form", "datasets").output
    assert "as datasets" in told
    base = KnowledgeBase.open(project)
    before, after = (base.retriever([name]).corpus for name in ("noto", "again"))
    assert len(after) == len(before) == 60
    assert sorted(after.column("caption").tolist()) == sorted(before.column("caption").tolist())
    assert sorted(after.column("split").tolist()) == sorted(before.column("split").tolist())
    assert set(after.column("licence").tolist()) == set(before.column("licence").tolist())


def test_shards_of_a_store_are_added(project: Path, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    members = {name: content for n in range(3) for name, content in ((f"{n}.png", picture(n)), (f"{n}.txt", b"a fox"))}
    store.pipe("/shelf/0.tar", tar_of(tmp_path / "0.tar", members).read_bytes())
    try:
        told = typed(project, "add", "shelf", "memory://shelf/{0..0}.tar", "--licence", "MIT").output
    finally:
        store.rm("/shelf", recursive=True)
    assert "reading memory://shelf/{0..0}.tar as webdataset" in told
    assert KnowledgeBase.open(project).info("shelf").num_pairs == 3
    refused = CliRunner().invoke(app, ["kb", "add", "more", "memory://shelf/9.tar", "--root", str(project)])
    assert refused.exit_code == 1
    assert "expected tar shards, got none" in refused.output


def test_segments_are_made_one_by_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEALED", 3)
    base = KnowledgeBase.open(project)
    for start in (0, 4):
        base.insert("parts", items(range(start, start + 4)), licence="CC0-1.0")
    assert "segments  2, of 4, 4 pairs" in typed(project, "info", "parts").output
    hits = base.search(Query(["a red fox"], top_k=3)).hits
    assert "segments" not in typed(project, "merge", "parts").output
    assert KnowledgeBase.open(project).info("parts").num_pairs == 8
    assert [one.pair_ids for one in KnowledgeBase.open(project).search(Query(["a red fox"], top_k=3)).hits] == [
        one.pair_ids for one in hits
    ]
