"""The full protocol on the small corpus: every variant, curves, groups, aims and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import DataError, ModelError
from rag_diffusion.metrics.aims import aims, kept
from rag_diffusion.metrics.drawn import by_drawings, by_training_step
from rag_diffusion.metrics.page import Cell, PageRow, picture_page, ranks
from rag_diffusion.metrics.plots import curves_plot
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.pipeline.promote import publish_evaluation
from rag_diffusion.stages import align, embed, evaluate, index
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.card import write_card


@pytest.fixture
def settings(scoring_config: Config) -> Config:
    """Few steps, few points."""
    sample = scoring_config.sample.model_copy(update={"num_inference_steps": 4})
    few = {"prompts": "default", "curve_text_scales": [1.5], "curve_neighbor_scales": [2.0], "shown": 1,
           "curve_prompts": 12}  # fmt: skip
    encoder = scoring_config.encoder.model_copy(update={"image_size": 32, "epochs": 1, "batch_size": 32})
    update = {"sample": sample, "evaluate": scoring_config.evaluate.model_copy(update=few), "encoder": encoder}
    return scoring_config.model_copy(update=update)


@pytest.fixture
def ready(project: Path, tiny_generator: Generator) -> Path:
    """The project with a model."""
    folder = project / layout.MODEL
    folder.mkdir(parents=True)
    save_generator(tiny_generator, folder)
    write_card(folder, {"train_entities": []})
    return project


@pytest.mark.slow
def test_everything_is_measured_once_and_published(ready: Path, settings: Config) -> None:
    context = StageContext(config=settings, root=ready, tracker=NullTracker())
    for stage in (align, embed, index):
        stage.run(context)
    with pytest.raises(DataError, match="make it with `rag-diffusion evaluate`"):
        publish_evaluation(ready)
    evaluate.run(context)
    drawn = {path: path.stat().st_mtime_ns for path in (ready / layout.SCRATCH).rglob("*.npz")}
    report = json.loads(publish_evaluation(ready).read_text())
    assert report["variants"].keys() == {
        "none", "random", "retrieved", "oracle", "copied", "copied_best", "copied_snap", "real_degraded", "real",
    }  # fmt: skip
    assert sum(found["num_prompts"] for found in report["by_drawings"].values()) == report["num_prompts"]
    curves = report["curves"]
    assert list(curves["number of neighbors"]["retrieved"]) == ["0", "1", "2", "3"]
    assert set(curves["guidance"]["retrieved"]) == {"none", "text", "neighbor", "interleaved", "alternate", "joint"}
    two = report["two_entities"]
    assert 0 < two["num_prompts"] <= report["num_prompts"] // 2
    assert two["variants"].keys() == {"none", "retrieved", "real"}
    assert 0 <= two["neighbors_of_both"] <= 1
    assert report["aims"].keys() >= {"retrieved / real, joint", "retrieved / none, KID"}
    page = (ready / layout.REPORTS / "faithfulness.html").read_text()
    assert all(f"<h2>{name}</h2>" in page for name in ("best", "median", "worst", "two entities in one prompt: best"))
    plots = {path.name for path in (ready / layout.REPORTS / "faithfulness").iterdir()}
    assert plots >= {"accuracy.png", "accuracy.csv", "by_drawings.png", "by_number_of_neighbors.png", "by_guidance.png"}

    evaluate.run(context)
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn, "nothing is drawn twice"
    again = json.loads((ready / layout.EVALUATED / "faithfulness.json").read_text())
    assert again == report


def test_a_corpus_that_cannot_be_judged_is_refused(
    ready: Path, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_diffusion.metrics.scoring.why_not_judged", lambda *_: "it knows other styles")
    with pytest.raises(ModelError, match="evaluate: expected the default corpus, .*it knows other styles"):
        evaluate.run(StageContext(config=settings, root=ready, tracker=NullTracker()))


def test_prompts_are_grouped_by_what_may_be_retrieved(project: Path, settings: Config) -> None:
    bench = Bench.open(project, settings)
    gallery = bench.ruler.look(bench.trunk, bench.corpus.pixels(bench.candidates))
    judge = bench.judge(gallery.entity)
    rows = np.searchsorted(bench.candidates, real_rows(bench.corpus, bench.prompts))
    verdicts = judge.verdicts(gallery.rows(rows))
    found = by_drawings(bench, {"retrieved": verdicts})
    table = bench.corpus.table
    prompt = bench.prompts[0]
    own = table[table["entity"] == prompt.entity]
    free = len(own) - len(own[own["pair_id"].isin(bench.table.prompts[prompt.prompt_id].exclude)])
    assert (str(free) if free < 7 else "7 or more") in found
    weighted = sum(group["num_prompts"] * group["joint"]["mean"] for group in found.values()) / len(bench.prompts)
    assert weighted == pytest.approx(verdicts.values("joint").mean(), abs=1e-5)

    margins = judge.margins(gallery.rows(rows))
    assert np.array_equal(margins[:, 0] > 0, verdicts.entity)
    assert np.array_equal(margins[:, 1] > 0, verdicts.style)


def test_ranks_ask_for_both() -> None:
    margins = np.array([[0.9, -0.9], [0.5, 0.5], [-0.5, 0.4], [0.6, 0.6]])
    assert ranks(margins).tolist()[:2] == [3, 1]
    assert ranks(margins).tolist()[-1] in (0, 2)


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def report(retrieved: float) -> dict[str, Any]:
    row = {name: interval(retrieved) for name in ("joint", "entity", "style")}
    plain = {name: interval(0.5) for name in ("joint", "entity", "style")}
    return {
        "variants": {
            "retrieved": row | {"kid": interval(0.1)},
            "none": plain | {"kid": interval(0.4)},
            "random": plain | {"style": interval(0.3)},
            "real": plain,
        },
        "differences": {"retrieved-none": row, "retrieved-copied_snap": row},
        "by_kind": {"sentence": {"retrieved": plain}, "caption": {"retrieved": row}},
        "two_entities": {"difference": interval(retrieved)},
        "by_placement": {
            "curve_retrieved_aligned": -0.02,
            "curve_retrieved_shift16": -0.015,
            "curve_retrieved_size0.5": 0.01,
            "curve_random_aligned": 0.003,
        },
    }


def test_scores_by_training_step_go_on_from_the_base_to_the_model() -> None:
    scores = dict.fromkeys(("joint", "entity", "style", "style_check"), 0.1)
    base = {"steps": 100, "neighbor_gain": [{"step": 50, **scores}, {"step": 100, "loss_none_t850": 0.2}]}
    card = {"base": base, "neighbor_gain": [{"step": 20, "seconds": 3.0, **scores, "joint": 0.3}]}
    found = by_training_step(card)
    assert {step: row["joint"] for step, row in found.items()} == {"50": 0.1, "120": 0.3}
    assert by_training_step({"base": None, "neighbor_gain": [{"step": 1}]}) == {}


def test_aims_say_what_is_reached() -> None:
    found = {name: one["reached"] for name, one in aims(report(0.4)).items()}
    assert found == {
        "retrieved - none, joint, low end": True,
        "retrieved - copied + palette, joint, low end": True,
        "retrieved / real, joint": True,
        "retrieved / none, KID": True,
        "random / none, style": False,
        "sentences / captions, entity": True,
        "retrieved, style": False,
        "moved by 16 px / aligned, gain": True,
        "half size / aligned, gain": False,
        "random - none, loss at t = 950": True,
        "two entities, retrieved - none, both, low end": True,
    }
    found = {name: one["reached"] for name, one in aims(report(0.1)).items()}
    assert not found["retrieved - none, joint, low end"]
    assert not found["retrieved / real, joint"]


def test_the_share_of_the_gain_that_is_kept_is_none_without_a_gain() -> None:
    assert kept({"curve_retrieved_aligned": -0.04, "curve_retrieved_shift16": -0.03}, "shift16") == 0.75
    assert kept({"curve_retrieved_aligned": -0.04, "curve_retrieved_shift16": 0.02}, "shift16") == -0.5
    assert kept({"curve_retrieved_aligned": 0.01, "curve_retrieved_shift16": -0.02}, "shift16") == 0


def test_the_page_escapes_prompts_and_marks_verdicts(tiny_corpus: Corpus) -> None:
    pixels = tiny_corpus.pixels([0, 1])
    row = PageRow(
        prompt="a <b>cat</b>",
        target="cat & dog",
        neighbors=pixels,
        cells={"copied_snap": Cell(pixels=pixels[0], entity=True, style=False)},
    )
    page = picture_page("heading", "note", {"best": [row]})
    assert "a &lt;b&gt;cat&lt;/b&gt;" in page
    assert "cat &amp; dog" in page
    assert "✓ entity" in page
    assert "✗ style" in page
    assert page.count("data:image/png;base64,") == 3
    assert "copied snap" in page


def test_curves_are_a_picture_and_the_same_each_time() -> None:
    curves = {"retrieved": {"0": interval(0.2), "1": interval(0.4)}, "oracle": {"1": interval(0.5)}}
    first, second = (curves_plot(curves, xlabel="neighbors", title="title") for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
