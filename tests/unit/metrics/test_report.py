"""The table, its differences, and the sentence that sums it up."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.judge import Verdicts
from rag_diffusion.metrics.plots import accuracy_plot
from rag_diffusion.metrics.report import (
    accuracy_table,
    as_csv,
    by_kind,
    differences,
    distance_table,
    flat_metrics,
    in_order,
    notes,
    unanswered,
    unjudged_table,
    verdict,
)
from rag_diffusion.types import Prompt


def verdicts(entity: list[int], style: list[int]) -> Verdicts:
    right = np.array(style, dtype=bool)
    return Verdicts(entity=np.array(entity, dtype=bool), style=right, style_check=right,
                    entity_guess=("x",) * len(entity), style_guess=("y",) * len(entity))  # fmt: skip


def bootstrap(size: int) -> ClusterBootstrap:
    return ClusterBootstrap([str(number) for number in range(size)], draws=500, seed=0)


def few_draws(prompts: Sequence[Prompt]) -> ClusterBootstrap:
    return ClusterBootstrap([prompt.entity for prompt in prompts], draws=50, seed=0)


def prompt(number: int, kind: str) -> Prompt:
    return Prompt(prompt_id=f"test-{number}", split="test", entity=str(number), family="f", title="t", style="noto",
                  kind=kind, text="t", default=True, seed=0)  # fmt: skip


def test_joint_needs_entity_and_style_of_the_same_image() -> None:
    table = accuracy_table({"real": verdicts([1, 1, 0, 0], [1, 0, 1, 0])}, bootstrap(4))
    assert [table["real"][name]["mean"] for name in ("joint", "entity", "style")] == [0.25, 0.5, 0.5]


def test_difference_is_computed_by_hand_and_only_for_variants_that_are_there() -> None:
    found = differences(
        {"retrieved": verdicts([1, 1, 1, 0], [1, 1, 0, 0]), "none": verdicts([0, 0, 1, 0], [1, 1, 1, 1])}, bootstrap(4)
    )
    assert list(found) == ["retrieved-none"]
    assert found["retrieved-none"]["joint"]["mean"] == 0.25
    assert found["retrieved-none"]["style"]["mean"] == -0.5


def test_kinds_of_prompt_are_told_apart() -> None:
    prompts = [prompt(0, "caption"), prompt(1, "sentence"), prompt(2, "caption")]
    found = by_kind({"retrieved": verdicts([1, 0, 0], [1, 1, 1])}, prompts, few_draws)
    assert found["caption"]["num_prompts"] == 2
    assert found["caption"]["retrieved"]["joint"]["mean"] == 0.5
    assert found["sentence"]["retrieved"]["joint"]["mean"] == 0.0


def test_distances_are_to_the_real_images_which_have_none_themselves(rng: np.random.Generator) -> None:
    real = rng.normal(size=(12, 4))
    table = distance_table({"real": real, "near": real + 0.1, "far": real + 2}, "frechet", bootstrap(12))
    assert table["real"] == {"kid": None, "frechet": None}
    assert table["near"]["kid"]["mean"] < table["far"]["kid"]["mean"]
    assert table["near"]["frechet"] == pytest.approx(4 * 0.01, rel=1e-4)


def test_prompts_without_neighbors_are_left_out_of_a_column_and_of_its_differences(rng: np.random.Generator) -> None:
    oracle = replace(verdicts([1, 1], [1, 1]), rows=np.array([0, 3]))
    found = {"oracle": oracle, "none": verdicts([0, 1, 1, 0], [1, 1, 1, 1])}
    assert accuracy_table(found, bootstrap(4))["oracle"]["joint"]["mean"] == 1.0
    assert differences(found, bootstrap(4))["oracle-none"]["joint"]["mean"] == 1.0, "prompts 0 and 3, by hand"
    prompts = [prompt(0, "caption"), prompt(1, "sentence"), prompt(2, "caption"), prompt(3, "sentence")]
    kinds = by_kind(found, prompts, few_draws)
    assert kinds["caption"]["oracle"]["joint"]["mean"] == 1.0
    assert kinds["sentence"]["none"]["joint"]["mean"] == 0.5
    told = unanswered({"oracle": oracle.answers, "none": np.arange(4)}, prompts)
    assert list(told) == ["oracle"]
    assert told["oracle"]["count"] == 2
    assert told["oracle"]["prompts"] == ["test-1", "test-2"]

    real = rng.normal(size=(12, 4))
    rows = np.arange(0, 12, 2)
    features = {"real": real, "oracle": real[rows] + 0.1}
    table = distance_table(features, "frechet", bootstrap(12), {"real": np.arange(12), "oracle": rows})
    assert table["oracle"]["frechet"] == pytest.approx(4 * 0.01, rel=1e-4), "to the real images of those prompts alone"


@pytest.mark.parametrize(("count", "told"), [(16, set()), (30, {"kid"}), (100, {"kid", "frechet"})])
def test_a_distance_of_too_few_images_is_refused_in_words(
    count: int, told: set[str], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_diffusion.metrics.report.LEAST", {"kid": 30, "frechet": 100})
    real = rng.normal(size=(count, 4))
    table = distance_table({"real": real, "none": real + 1}, "frechet", bootstrap(count))
    assert {name for name in ("kid", "frechet") if table["none"][name] is not None} == told
    said = notes({name: row | {"num_images": count} for name, row in table.items()}, "frechet", {}, {})
    assert len(said) == 2 - len(told)
    assert all(f"got none {count}; with fewer" in sentence for sentence in said)


def test_notes_name_what_is_absent_and_what_is_left_out() -> None:
    table = {"retrieved": {"num_images": 200}, "real": {"num_images": 200}, "oracle": {"num_images": 120}}
    without = {"oracle": {"count": 80, "why": "no other pair"}}
    assert notes(table, "frechet", {"random": "one family alone"}, without) == [
        "random: no such column, one family alone",
        "oracle: 80 of 200 prompts are left out, no other pair",
    ]


def test_unjudged_variants_say_why_and_give_no_number() -> None:
    table = unjudged_table(["none"], "no styles")
    assert table["none"]["joint"] is None
    assert table["none"]["reason"] == "no styles"
    assert flat_metrics(table) == {}
    assert as_csv(table) == "variant,metric,mean,low,high\n"


def test_order_of_variants_ends_with_the_real_images() -> None:
    assert list(in_order({"real": 1, "mine": 2, "none": 3, "copied": 4})) == ["none", "copied", "real", "mine"]


@pytest.mark.parametrize(("low", "high", "words"), [
    (0.01, 0.2, "retrieved beats no neighbors"), (-0.1, 0.2, "does not beat no neighbors"),
    (-0.3, -0.1, "is worse than no neighbors"),
])  # fmt: skip
def test_verdict_says_in_words_what_the_interval_says(low: float, high: float, words: str) -> None:
    said = verdict({"retrieved-none": {"joint": {"mean": (low + high) / 2, "low": low, "high": high}}})
    assert words in said
    assert f"[{low:+.3f}, {high:+.3f}]" in said


def test_verdict_of_nothing_says_so() -> None:
    assert "nothing to compare" in verdict({})


def test_csv_and_plot_hold_every_judged_variant() -> None:
    table = accuracy_table(
        {name: verdicts([1, 0, 1], [1, 1, 0]) for name in ("none", "retrieved", "real")}, bootstrap(3)
    )
    lines = as_csv(table).splitlines()
    assert lines[1].startswith("none,joint,0.333333,")
    assert len(lines) == 1 + 3 * 4
    once, again = (accuracy_plot(table, num_prompts=3) for _ in range(2))
    assert once == again
    wide = accuracy_plot(table | {"oracle": table["real"], "copied": table["real"]}, num_prompts=3)
    assert Image.open(io.BytesIO(wide)).width > Image.open(io.BytesIO(once)).width
