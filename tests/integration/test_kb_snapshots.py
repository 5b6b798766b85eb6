"""Versions of data sets with real git and DVC: kept, pushed, wiped, brought back, and found by a picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import ENCODER, KB, SNAPSHOTS
from rag_diffusion.lineage import trace
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.query import Query
from rag_diffusion.sampling.provenance import Provenance, save_picture
from rag_diffusion.terminal.app import app
from tests.tiny import tiny_pairs
from tests.unit.knowledge.bases import write_params

pytestmark = pytest.mark.slow

QUERIES = ("a red circle", "a blue square", "a green moon")


def some_items(start: int, end: int) -> list[Item]:
    return [
        Item(name=f"{number:03d}.png", image=pair.image, caption=pair.caption)
        for number, pair in enumerate(tiny_pairs()[start:end])
    ]


def run(root: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(root: Path, message: str) -> str:
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)
    return run(root, "git", "rev-parse", "HEAD").strip()


def kb(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["kb", *arguments, "--root", str(root)])


def hits(root: Path) -> Sequence[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Ids and scores, by a knowledge base that is opened now."""
    found = KnowledgeBase.open(root).search(Query(QUERIES, top_k=5))
    return [(one.pair_ids, one.scores) for one in found.hits]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """params.yaml, an encoder, git, DVC and a remote; the data set `mine` of 30 pairs."""
    root = tmp_path / "project"
    root.mkdir()
    write_params(root, 64)
    (root / ENCODER).mkdir(parents=True)
    save_weights(create_embedded(root / ENCODER, image_size=32, embed_dim=32, seed=0), root / ENCODER)
    run(root, "git", "init", "-q")
    run(root, "dvc", "init", "-q")
    run(root, "dvc", "remote", "add", "-q", "-d", "shared", str(tmp_path / "remote"))
    (root / ".gitignore").write_text("/data/kb/\n/data/encoder/\n")
    (root / ".dvcignore").write_text("data/kb/\n")
    KnowledgeBase.open(root).add("mine", some_items(0, 30))
    return root


def test_a_snapshot_is_pushed_wiped_pulled_and_finds_the_same(project: Path, tmp_path: Path) -> None:
    done = kb(project, "snapshot")
    assert done.exit_code == 0, done.output
    assert "tracked by data/snapshots/mine.dvc" in done.output
    kept = {path.name for path in (project / SNAPSHOTS / "mine").iterdir()} - {"manifest.json"}
    assert kept == {path.name for path in (project / KB / "mine" / "00001").iterdir()}, "all of the generation"
    first, old = commit(project, "first"), hits(project)
    KnowledgeBase.open(project).add("mine", some_items(20, 60), replace=True)
    new = hits(project)
    assert new != old
    assert kb(project, "snapshot", "mine").exit_code == 0
    commit(project, "second")
    assert run(project, "dvc", "status", "--json").strip() == "{}"
    run(project, "dvc", "push", "--all-commits")

    for folder in (KB, f"{SNAPSHOTS}/mine", ".dvc/cache"):
        shutil.rmtree(project / folder)
    run(project, "dvc", "pull")
    run(project, "dvc", "fetch", "--all-commits")
    done = kb(project, "restore")
    assert done.exit_code == 0, done.output
    assert hits(project) == new
    assert run(project, "dvc", "status", "--json").strip() == "{}"

    run(project, "git", "checkout", first, "--", "data/snapshots/mine.dvc")
    run(project, "dvc", "checkout")
    assert kb(project, "restore", "mine").exit_code == 0
    assert hits(project) == old
    assert kb(project, "info", "mine", "--check").output.endswith("every file is as its manifest tells\n")

    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(project), str(clone))
    shutil.copytree(project / ENCODER, clone / ENCODER)
    done = kb(clone, "restore")
    assert done.exit_code == 0, done.output
    assert hits(clone) == new, "the last commit's, fetched from the remote by the one command"


def test_what_no_snapshot_holds_is_not_lost(project: Path) -> None:
    kb(project, "snapshot")
    base = KnowledgeBase.open(project)
    first = base.info("mine").hash
    base.add("mine", some_items(20, 60), replace=True)
    new = hits(project)
    done = kb(project, "restore", "mine")
    assert done.exit_code == 1
    assert "`rag-diffusion kb snapshot mine` keeps it" in done.output
    assert hits(project) == new
    assert "was not committed; nothing names it any more" in kb(project, "snapshot").output
    done = kb(project, "restore", "mine", "--version", first[:10])
    assert "expected one version of 'mine' that DVC tracks" in done.output

    second = commit(project, "second")
    base.add("mine", some_items(0, 30), replace=True)
    assert kb(project, "snapshot").exit_code == 0
    done = kb(project, "restore", "mine", "--version", base.info("mine").hash[:10])
    assert "30 pairs" in done.output, "it lies there already"
    version = yaml.safe_load(run(project, "git", "show", f"{second}:data/snapshots/mine.dvc"))["meta"]["hash"]
    done = kb(project, "restore", "mine", "--version", version[:10])
    assert done.exit_code == 1
    assert "to be in git before it names another version" in done.output
    commit(project, "third")
    assert kb(project, "restore", "mine", "--version", version[:10]).exit_code == 0
    assert hits(project) == new
    assert kb(project, "restore", "other").exit_code == 1


def test_damage_is_told_and_a_snapshot_mends_it(project: Path) -> None:
    kb(project, "snapshot")
    commit(project, "first")
    expected = hits(project)
    table = project / KB / "mine" / "00001" / "table.arrow"
    content = table.read_bytes()
    table.unlink()  # it and the snapshot's are one file
    table.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = kb(project, "snapshot")
    assert done.exit_code == 1
    assert "it was changed; run `rag-diffusion kb rebuild mine`" in done.output
    (project / KB / "mine" / "manifest.json").write_text("{")
    assert kb(project, "restore").exit_code == 0
    assert hits(project) == expected
    assert sorted(path.name for path in (project / KB / "mine").iterdir()) == ["00002", "manifest.json"]

    (project / SNAPSHOTS / "mine" / "table.arrow").unlink()
    (project / SNAPSHOTS / "mine" / "table.arrow").write_bytes(b"other")
    shutil.rmtree(project / KB / "mine")
    assert kb(project, "restore").exit_code == 0, "DVC lays the snapshot out again"
    assert hits(project) == expected


def test_a_picture_is_traced_to_the_version_that_it_was_drawn_with(project: Path) -> None:
    version = KnowledgeBase.open(project).info("mine").version
    origin = Provenance(
        prompt="a red circle",
        seed=1,
        corpus_hash=version.hash,
        model_hash="0" * 64,
        neighbors=(),
        null_attention=1.0,
        data_sets=(version,),
    )
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    save_picture(project / "drawn.png", np.zeros((8, 8, 3), dtype=np.uint8), origin)

    def told() -> str:
        (line,) = [note for note in trace(project, "drawn.png").notes if note.startswith("data set mine")]
        return line

    assert told().startswith(f"data set mine {version.hash[:12]} (30 pairs, added 20")
    assert told().endswith("as it lies here now")
    assert kb(project, "snapshot", "mine").exit_code == 0
    kept = commit(project, "snapshot")
    KnowledgeBase.open(project).add("mine", some_items(10, 50), replace=True)
    command = f"kb restore mine --version {version.hash[:12]}"
    assert told().endswith(
        f"not what lies here now; DVC tracks it (commit {kept[:12]}), `rag-diffusion {command}` puts it back"
    )
    assert kb(project, *command.split()[1:], "--force").exit_code == 0
    assert told().endswith("as it lies here now")
    assert kb(project, "remove", "mine").exit_code == 0
    shutil.rmtree(project / ".git")
    (project / SNAPSHOTS / "mine.dvc").unlink()
    assert told().endswith("not what lies here now, and no snapshot of it is known")
