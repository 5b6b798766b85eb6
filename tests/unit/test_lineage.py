"""From a result back to its origin, on a small dvc.lock."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from rag_diffusion.errors import DataError
from rag_diffusion.files import tree_hash
from rag_diffusion.lineage import as_text, trace
from rag_diffusion.sampling.provenance import Provenance, Source, save_picture, to_text
from rag_diffusion.sampling.samples import file_name
from rag_diffusion.terminal.lineage_svg import as_svg

LOCK = {
    "score": (["data/samples", "data/corpus", "data/ruler"], ["reports/metrics.json"]),
    "ingest": (["data/sources"], ["data/corpus"]),
    "finetune": (["data/corpus", "data/base", "rag_diffusion/models"], ["data/model"]),
    "sample": (["data/model", "data/corpus"], ["data/samples"]),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that has run four stages; the newest comes first in its lock, as DVC may write it."""
    stages = {
        name: {
            "cmd": f"run {name}",
            "deps": [{"path": path, "md5": f"md5-of-{path}"} for path in deps],
            "params": {"params.yaml": {"seed": 0, name: {"steps": 60}}},
            "outs": [{"path": path, "md5": f"md5-of-{path}"} for path in [*outs, f"data/runs/{name}.run.json"]],
        }
        for name, (deps, outs) in LOCK.items()
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    for folder in ("data/runs", "data/corpus", "data/model", "data/samples", "reports"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(LOCK):
        record = {"run_id": f"{number}" * 32, "stage": name, "git_commit": "abc" + "0" * 37, "dagster_run": "d" * 8}
        (tmp_path / f"data/runs/{name}.run.json").write_text(json.dumps(record))
    (tmp_path / "data/corpus/manifest.json").write_text(json.dumps({"hash": "the-corpus"}))
    (tmp_path / "data/model/weights").write_bytes(b"weights")
    (tmp_path / "data/samples/a.txt").write_text("a")
    (tmp_path / "reports/metrics.json").write_text("{}")
    return tmp_path


def test_a_file_names_everything_that_it_comes_from(root: Path) -> None:
    found = trace(root, "data/samples/a.txt")
    assert list(found.steps)[-1] == "sample"
    assert set(found.steps) == {"ingest", "base", "finetune", "sample"}
    assert list(found.steps).index("ingest") < list(found.steps).index("finetune")
    text = as_text(found)
    assert text.splitlines()[2] == "sample  <- finetune, ingest"
    for said in ("run_id         33333333", "git_commit     abc000", "dagster_run    dddddddd", "seed = 0",
                 "finetune.steps = 60", "data/base  md5-of-data/base", "rag_diffusion/models  md5-of-"):  # fmt: skip
        assert said in text
    assert set(trace(root, "reports/metrics.json").steps) == {*LOCK, "base", "ruler"}


def test_a_run_is_found_by_the_beginning_of_its_id(root: Path) -> None:
    assert list(trace(root, "222222").steps)[-1] == "finetune"
    with pytest.raises(DataError, match="these runs did: .*score 00000000"):
        trace(root, "ffffff")


def test_a_picture_tells_its_neighbors_and_leads_to_model_and_corpus(root: Path) -> None:
    neighbor = Source(
        pair_id="a/b", caption="c", source="a", licence="MIT", attribution="me", score=1.0, attention=0.75
    )
    given = Provenance(
        prompt="an ant", seed=3, corpus_hash="the-corpus", model_hash=tree_hash(root / "data/model"),
        neighbors=(neighbor,), null_attention=0.25, settings={"steps": 20},
    )  # fmt: skip
    save_picture(root / "drawn.png", np.zeros((4, 4, 3), dtype=np.uint8), given)
    found = trace(root, "drawn.png")
    assert set(found.steps) == {"ingest", "base", "finetune"}
    assert found.notes == (
        "prompt 'an ant', seed 3", "neighbor a/b (MIT), attention 0.75", "drawn with steps 20",
    )  # fmt: skip

    (root / "data/model/weights").write_bytes(b"others")
    found = trace(root, "drawn.png")
    assert set(found.steps) == {"ingest"}
    assert found.notes[-1].endswith("not what lies here now")


def test_a_drawing_of_the_stage_tells_its_neighbors_and_the_stage(root: Path) -> None:
    neighbor = Source(pair_id="a/b", caption="c", source="a", licence="MIT", attribution="me", score=1.0, attention=0.7)
    given = Provenance(
        prompt="an ant", seed=3, corpus_hash="the-corpus", model_hash=tree_hash(root / "data/model"),
        neighbors=(neighbor,), null_attention=0.3,
        settings={"num_inference_steps": 20, "scheduler_config": {"clip_sample": True}, "begin_image": "x" * 99},
    )  # fmt: skip
    (root / "data/samples/images/retrieved").mkdir(parents=True)
    name = f"data/samples/images/retrieved/{file_name(3, 'An ant, drawn: «ameise»')}"
    assert name.endswith("/0003-an-ant-drawn-ameise.png")
    save_picture(root / name, np.zeros((4, 4, 3), dtype=np.uint8), given)
    found = trace(root, name)
    assert set(found.steps) == {"ingest", "base", "finetune", "sample"}
    assert "neighbor a/b (MIT), attention 0.70" in found.notes
    assert found.notes[-1] == "drawn with num_inference_steps 20", "what is not for reading is left out"
    assert (file_name(0, "…"), file_name(12, "x" * 90)) == ("0000.png", f"0012-{'x' * 48}.png")


def test_a_file_of_nobody_and_a_project_without_a_lock_are_refused(root: Path) -> None:
    (root / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="got another file"):
        trace(root, "notes.txt")
    (root / "dvc.lock").unlink()
    with pytest.raises(DataError, match="run `dvc repro`"):
        trace(root, "data/samples")


def test_the_drawing_has_a_box_for_each_step_and_no_two_overlap(root: Path) -> None:
    drawing = ElementTree.fromstring(as_svg(trace(root, "reports/metrics.json")))
    boxes = [(int(one.get("x", 0)), int(one.get("y", 0))) for one in drawing.iter() if one.get("rx")]
    assert len(boxes) == len(set(boxes)) == 6
    assert len([one for one in drawing.iter() if one.tag.endswith("path")]) == 7
    assert on_a_page(drawing)


def on_a_page(drawing: ElementTree.Element) -> bool:
    """Whether it fits an upright A4 page, and nothing of it is cut."""
    width, height = (float(drawing.get(name, "").removesuffix("mm")) for name in ("width", "height"))
    right, bottom = map(float, drawing.get("viewBox", "").split()[2:])
    boxes = [one for one in drawing.iter() if one.get("x") and one.get("width", "").isdigit()]
    whole = all(float(one.get("x", 0)) + float(one.get("width", 0)) <= right for one in boxes)
    whole &= all(float(one.get("y", 0)) + float(one.get("height", 0)) <= bottom for one in boxes)
    return whole and width <= 190.1 and height <= 277.1


def test_a_picture_and_its_neighbors_are_nodes_of_the_drawing(root: Path) -> None:
    kept = to_text(np.zeros((4, 4, 3), dtype=np.uint8))
    sources = tuple(
        Source(pair_id=f"a/{n}", caption="<c>", source="a", licence="MIT", attribution="", score=1.0, attention=0.4,
               image=kept if n else "")
        for n in range(2)
    )  # fmt: skip
    given = Provenance(prompt="an ant", seed=3, corpus_hash="the-corpus", model_hash="gone", neighbors=sources,
                       null_attention=0.2)  # fmt: skip
    save_picture(root / "drawn.png", np.zeros((4, 4, 3), dtype=np.uint8), given)
    found = trace(root, "drawn.png", pictures=True)
    assert [bool(one.image) for one in found.neighbors] == [False, True]
    drawing = ElementTree.fromstring(as_svg(found))
    texts = [one.text for one in drawing.iter() if one.text]
    assert {"a/0", "a/1", "<c>", "not here", "prompt 'an ant', seed 3"} <= set(texts)
    images = [one.get("href", "") for one in drawing.iter() if one.tag.endswith("image")]
    own = b64encode((root / "drawn.png").read_bytes()).decode()
    assert images == [f"data:image/png;base64,{text}" for text in (kept, own)]
    assert len([one for one in drawing.iter() if one.tag.endswith("path")]) == 3, "two neighbors and ingest lead to it"
    assert on_a_page(drawing)


def test_pipelines_of_their_own_reach_code_where_dvc_leaves_its_bytecode_out(pytestconfig: pytest.Config) -> None:
    pipelines = pytestconfig.rootpath / "pipelines"
    assert "__pycache__" in (pipelines / ".dvcignore").read_text()  # holds inside of that project alone
    for path in pipelines.glob("*/dvc.yaml"):
        stage = next(iter(yaml.safe_load(path.read_text())["stages"].values()))
        code = [dep for dep in stage["deps"] if dep.endswith(".py") or "/code/" in dep or "rag_diffusion" in dep]
        assert code
        for dep in code:
            assert dep.startswith("../code/")
            assert (path.parent / dep).exists()
