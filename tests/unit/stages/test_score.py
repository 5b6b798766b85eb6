"""The stages `baselines` and `score` on the small corpus, with real images as what a perfect generator would draw."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.errors import DataError, LineageError, ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.metrics.own import Agree
from rag_diffusion.metrics.report import LEAST
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.readers.images import encode_png
from rag_diffusion.stages import baselines, score
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.types import Prompt
from tests.unit.scored import noise


def context(root: Path, config: Config) -> StageContext:
    return StageContext(config=config, root=root, tracker=NullTracker())


def write_samples(root: Path, corpus: Corpus, prompts: list[Prompt], **images: np.ndarray) -> None:
    """What the stage `sample` leaves."""
    rows = [{"prompt_id": prompt.prompt_id, "variant": name, "image": encode_png(drawn[number]), "first_stage": None}
            for name, drawn in images.items() for number, prompt in enumerate(prompts)]  # fmt: skip
    folder = root / layout.SAMPLES
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
    (folder / "provenance.json").write_text(json.dumps({"corpus_hash": corpus.hash}))


@pytest.fixture(scope="session")
def baselined(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The project after `baselines`."""
    root = Path(shutil.copytree(tiny_project, tmp_path_factory.mktemp("baselined") / "project"))
    config = load_config(request.config.rootpath / "params.yaml")
    update = {"bootstrap_draws": 300, "min_real_accuracy": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        for name in LEAST:
            patch.setitem(LEAST, name, 2)
        baselines.run(context(root, config.model_copy(update={"score": config.score.model_copy(update=update)})))
    return root


@pytest.fixture
def ready(baselined: Path, tiny_corpus: Corpus, tiny_prompts: list[Prompt], tmp_path: Path) -> Path:
    """The project with samples: retrieved = real images, none = noise."""
    root = Path(shutil.copytree(baselined, tmp_path / "ready"))
    real = tiny_corpus.pixels(real_rows(tiny_corpus, tiny_prompts))
    write_samples(root, tiny_corpus, tiny_prompts, none=noise(real.shape), retrieved=real)
    return root


def report(root: Path, name: str) -> dict:
    content: dict = json.loads((root / layout.REPORTS / f"{name}.json").read_text())
    return content


def test_baselines_table_has_every_variant_that_needs_no_generator(baselined: Path, tiny_prompts: list[Prompt]) -> None:
    found = report(baselined, "baselines")
    assert list(found["variants"]) == ["copied", "copied_best", "copied_snap", "real"]
    assert found["num_prompts"] == len(tiny_prompts)
    assert set(found["variants"]["copied"]) == {
        "joint", "entity", "style", "style_check", "kid", "frechet", "num_images",
    }  # fmt: skip
    assert found["extractor"] == "efficientnet_lite2"
    assert found["by_kind"].keys() == {"caption", "sentence"}


def test_real_images_beat_copies_which_keep_the_entity_and_miss_the_style(baselined: Path) -> None:
    table = report(baselined, "baselines")["variants"]
    assert table["real"]["joint"]["mean"] > table["copied"]["joint"]["mean"] + 0.2
    assert table["copied"]["style"]["mean"] < 0.3
    assert table["copied_best"]["joint"]["mean"] >= table["copied"]["joint"]["mean"]


def test_checks_say_whether_the_table_means_anything(baselined: Path) -> None:
    found = report(baselined, "baselines")
    copied = found["variants"]["copied"]["joint"]["mean"]
    assert found["checks"]["copied_joint_below_0.10"] is (copied < 0.1)
    assert found["checks"]["shuffled_labels_give_chance"] is True
    assert found["shuffled_joint"] < 0.05
    assert (
        found["real_test"]["num_images"] == 36
    )  # three prompts of each of the twelve entities, not the third that is drawn


def test_baselines_are_the_same_bytes_on_a_second_run(baselined: Path, project: Path, scoring_config: Config) -> None:
    baselines.run(context(project, scoring_config))
    assert tree_hash(project / layout.BASELINES) == tree_hash(baselined / layout.BASELINES)
    assert report(project, "baselines") == report(baselined, "baselines")


def test_verdicts_and_images_are_kept_for_each_prompt(
    baselined: Path, tiny_corpus: Corpus, tiny_prompts: list[Prompt]
) -> None:
    table = pq.read_table(baselined / layout.BASELINES / "images.parquet").to_pandas()
    assert len(table) == 4 * len(tiny_prompts)
    real = table[table["variant"] == "real"]
    assert real["joint"].mean() == pytest.approx(
        report(baselined, "baselines")["variants"]["real"]["joint"]["mean"], abs=1e-6
    )
    assert real["pair_id"].tolist() == tiny_corpus.table["pair_id"].iloc[real_rows(tiny_corpus, tiny_prompts)].tolist()


def test_score_gives_real_images_the_accuracy_of_real_images_and_noise_none(
    ready: Path, scoring_config: Config
) -> None:
    score.run(context(ready, scoring_config))
    found = report(ready, "metrics")
    table = found["variants"]
    assert list(table) == ["none", "retrieved", "copied", "copied_best", "copied_snap", "real"]
    for metric in ("joint", "entity", "style", "style_check"):
        assert table["retrieved"][metric] == table["real"][metric]
    assert table["none"]["joint"]["mean"] < 0.2
    assert found["differences"]["retrieved-none"]["joint"]["low"] > 0
    assert found["verdict"].startswith("retrieved beats no neighbors on joint accuracy by +")
    assert table["none"]["kid"]["low"] > max(0, table["retrieved"]["kid"]["mean"])
    assert table["retrieved"]["frechet"] == pytest.approx(0, abs=1e-3)
    assert (
        (ready / layout.REPORTS / "plots/accuracy.csv")
        .read_text()
        .startswith("variant,metric,mean,low,high\nnone,joint,")
    )
    assert (ready / layout.REPORTS / "plots/accuracy.png").stat().st_size > 10_000


def test_finished_pictures_of_a_cascade_are_judged_beside_what_its_first_stage_drew(
    ready: Path, scoring_config: Config
) -> None:
    path = ready / layout.SAMPLES / "samples.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        small = Image.open(io.BytesIO(row["image"]))
        drawn = ImageOps.flip(small).rotate(90) if row["variant"] == "retrieved" else small
        large = small.resize((256, 256), Image.Resampling.NEAREST)
        row |= {"first_stage": encode_png(np.asarray(drawn)), "image": encode_png(np.asarray(large))}
    pq.write_table(pa.Table.from_pylist(rows), path)

    score.run(context(ready, scoring_config))
    found = report(ready, "metrics")
    table, cascade = found["variants"], found["cascade"]
    assert cascade["image_size"] == 256
    for metric in ("joint", "entity", "style", "style_check"):
        assert table["retrieved"][metric] == table["real"][metric], "large pictures, scaled down: the same pixels"
        assert cascade["changes"]["none"][metric] == 0
        first, change = cascade["first_stage"]["retrieved"][metric], cascade["changes"]["retrieved"][metric]
        assert table["retrieved"][metric]["mean"] == pytest.approx(first + change)
    assert cascade["changes"]["retrieved"]["entity"] > 0, "upside down they are taken for other things"


def test_a_variant_is_scored_on_the_prompts_that_it_has_neighbors_for(
    ready: Path, scoring_config: Config, tiny_corpus: Corpus, tiny_prompts: list[Prompt]
) -> None:
    path = ready / layout.SAMPLES / "samples.parquet"
    real = tiny_corpus.pixels(real_rows(tiny_corpus, tiny_prompts))
    rows = pq.read_table(path).to_pylist()
    rows += [{"prompt_id": prompt.prompt_id, "variant": "oracle", "image": encode_png(real[number])}
             for number, prompt in enumerate(tiny_prompts) if number % 2]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    even = [prompt.prompt_id for number, prompt in enumerate(tiny_prompts) if number % 2 == 0]
    said = {"corpus_hash": tiny_corpus.hash, "without": {"oracle": even}, "absent": {"random": "one family alone"}}
    (ready / layout.SAMPLES / "provenance.json").write_text(json.dumps(said))
    score.run(context(ready, scoring_config))
    found = report(ready, "metrics")
    assert found["variants"]["oracle"]["num_images"] == len(tiny_prompts) // 2
    assert found["variants"]["oracle"]["frechet"] == pytest.approx(0, abs=1e-3)
    assert found["without_neighbors"]["oracle"]["prompts"] == even
    assert "no other pair of the corpus shows" in found["without_neighbors"]["oracle"]["why"]
    assert found["absent"] == {"random": "one family alone"}
    assert "random" not in found["variants"]

    (ready / layout.SAMPLES / "provenance.json").write_text(json.dumps(said | {"without": {}}))
    with pytest.raises(LineageError, match="expected 12 prompts of variant 'oracle', got 6"):
        score.run(context(ready, scoring_config))


def test_copies_are_left_out_where_nothing_was_retrieved(project: Path, scoring_config: Config) -> None:
    path = project / layout.NEIGHBORS / "prompts.json"
    entries = json.loads(path.read_text())
    for number, name in enumerate(name for name in entries if name.startswith("test-")):
        if number < 30:
            entries[name] |= {"retrieved": [], "scores": []}
    path.write_text(json.dumps(entries))
    baselines.run(context(project, scoring_config))
    found = report(project, "baselines")
    count = found["without_neighbors"]["copied_snap"]["count"]
    assert found["variants"]["copied"]["num_images"] == 12 - count > 0
    for name in entries:
        entries[name] |= {"retrieved": [], "scores": []}
    path.write_text(json.dumps(entries))
    baselines.run(context(project, scoring_config))
    found = report(project, "baselines")
    assert list(found["variants"]) == ["real"]
    assert "retrieval found nothing" in found["absent"]["copied"]


def test_score_refuses_a_ruler_that_does_not_know_real_images(ready: Path, scoring_config: Config) -> None:
    strict = scoring_config.model_copy(
        update={"score": scoring_config.score.model_copy(update={"min_real_accuracy": 1.0})}
    )
    with pytest.raises(
        ModelError, match=r"expected at least 1.00 of 36 real test images to be recognised, got entity \d"
    ):
        score.run(context(ready, strict))
    assert not (ready / layout.REPORTS / "metrics.json").exists()


def test_score_refuses_samples_of_another_corpus(ready: Path, scoring_config: Config) -> None:
    (ready / layout.SAMPLES / "provenance.json").write_text(json.dumps({"corpus_hash": "f" * 64}))
    with pytest.raises(LineageError, match="expected samples drawn with corpus .* got ffffffffffff"):
        score.run(context(ready, scoring_config))


def test_score_refuses_samples_of_other_prompts(ready: Path, scoring_config: Config) -> None:
    everything = scoring_config.model_copy(
        update={"sample": scoring_config.sample.model_copy(update={"prompts": "all"})}
    )
    baselines.run(context(ready, everything))
    with pytest.raises(LineageError, match="drawn for other prompts"):
        score.run(context(ready, everything))


def test_score_refuses_baselines_of_other_prompts(ready: Path, scoring_config: Config) -> None:
    everything = scoring_config.model_copy(
        update={"sample": scoring_config.sample.model_copy(update={"prompts": "all"})}
    )
    with pytest.raises(LineageError, match="expected prompts 36 ids, got 12 ids; run the stage `baselines` again"):
        score.run(context(ready, everything))


def test_score_without_samples_says_which_stage_makes_them(baselined: Path, scoring_config: Config) -> None:
    with pytest.raises(LineageError, match="run the stage `sample`"):
        score.run(context(baselined, scoring_config))


def test_score_without_baselines_says_which_stage_makes_them(project: Path, scoring_config: Config) -> None:
    with pytest.raises(DataError, match="run the stage `baselines`"):
        score.run(context(project, scoring_config))


def test_damaged_samples_are_told(ready: Path, scoring_config: Config) -> None:
    path = ready / layout.SAMPLES / "samples.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="expected samples, got"):
        score.run(context(ready, scoring_config))


def test_a_planted_target_among_the_neighbors_stops_baselines(project: Path, scoring_config: Config) -> None:
    path = project / layout.NEIGHBORS / "prompts.json"
    entries = json.loads(path.read_text())
    entry = entries["test-0000"]
    entry["retrieved"][0] = entry["exclude"][0]
    path.write_text(json.dumps(entries))
    with pytest.raises(LineageError, match="a leak"):
        baselines.run(context(project, scoring_config))


def test_a_ruler_that_has_seen_test_entities_stops_baselines(
    project: Path, scoring_config: Config, tiny_prompts: list[Prompt]
) -> None:
    path = project / layout.RULER / "ruler.json"
    card = json.loads(path.read_text())
    card["train_entities"] = sorted([*card["train_entities"], tiny_prompts[0].entity])
    path.write_text(json.dumps(card))
    with pytest.raises(ModelError, match="expected scored entities it has never seen"):
        baselines.run(context(project, scoring_config))


def test_a_corpus_without_known_styles_gets_distances_and_measures_of_its_own(
    ready: Path, scoring_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brightness(folder: Path, device: str) -> Agree:
        return lambda pixels, texts: pixels.mean(axis=(1, 2, 3)) / 255

    monkeypatch.setattr("rag_diffusion.metrics.scoring.dual_encoder_agreement", brightness)
    path = ready / layout.RULER / "ruler.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"styles": [f"other-{number}" for number in range(len(card["styles"]))]}))
    for stage in (baselines, score):
        stage.run(context(ready, scoring_config))
    for name, variants in (("baselines", ["copied", "real"]), ("metrics", ["none", "retrieved", "copied", "real"])):
        found = report(ready, name)
        assert list(found["variants"]) == variants
        assert found["variants"]["copied"]["joint"] is None
        assert "not trained on the styles" in found["reason"]
        assert found["variants"]["copied"]["kid"]["mean"] > 0
        assert 0 < found["variants"]["real"]["prompt_agreement"]["mean"] < 1
        assert found["chance"] == {"own_real_nearest": pytest.approx(1 / 12, abs=1e-6)}
    table = report(ready, "metrics")["variants"]
    nearest = table["retrieved"]["own_real_nearest"]["mean"]
    assert nearest >= 11 / 12 - 1e-6, "they are the real images here; two rings of one outline are drawn alike"
    assert table["retrieved"]["agreement_to_real"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert table["none"]["own_real_nearest"]["mean"] < 0.4, "noise"
    assert report(ready, "metrics")["verdict"].startswith("not judged: the ruler was not trained on the styles")
