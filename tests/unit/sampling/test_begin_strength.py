"""A picture that begins with its first content neighbor, noised, in place of noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from rag_diffusion.config import Config
from rag_diffusion.errors import LineageError, MixedBatchError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.retrieval.query import Searcher
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.sampling import studio
from rag_diffusion.sampling.batches import Batch, BatchDrawer
from rag_diffusion.sampling.output import RetrievalPipelineOutput, as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt
from tests.unit.sampling.prompts import LISTS, PROMPTS

HALF = 0.5


def begun(pipeline: RetrievalPipeline, neighbors: Any, prompts: list[str], **more: Any) -> RetrievalPipelineOutput:
    seeds = seeded(range(len(prompts)))
    return pipeline(prompts, neighbors, num_inference_steps=4, generator=seeds, **{"begin_strength": HALF} | more)


def test_it_is_the_picture_that_begins_with_that_neighbor(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    style = replace(neighbors[1][0], pair_id="style", weight=0.5)
    given, prompts = [[*neighbors[0]], [replace(style, negative=True), *neighbors[1]]], PROMPTS[:2]
    first = [own[number].pixels(pipeline.generator.size) for own, number in zip(given, (0, 1), strict=True)]
    found = begun(pipeline, given, prompts)
    by_hand = begun(pipeline, given, prompts, begin_strength=None, image=first, strength=HALF)
    assert np.array_equal(as_arrays(found.images), as_arrays(by_hand.images))
    plain = as_arrays(begun(pipeline, given, prompts, begin_strength=1.0).images)
    assert not np.array_equal(as_arrays(found.images), plain)
    settings = found.provenance[0].settings
    assert settings["begin_strength"] == HALF
    assert not {"strength", "begin"} & set(settings)


def test_it_is_drawn_again_from_its_provenance(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    found = begun(pipeline, neighbors[0], PROMPTS[:1])
    again = pipeline.redraw(found.provenance[0], neighbors[0])
    assert np.array_equal(as_arrays(again.images), as_arrays(found.images))
    assert again.provenance[0].settings == found.provenance[0].settings
    with pytest.raises(LineageError, match="its neighbor tiny/noto/red-circle"):
        pipeline.redraw(found.provenance[0], neighbors[0][1:])


def test_without_any_neighbor_it_begins_with_noise(pipeline: RetrievalPipeline) -> None:
    found, plain = (begun(pipeline, [], PROMPTS, begin_strength=strength) for strength in (HALF, 1.0))
    assert np.array_equal(as_arrays(found.images), as_arrays(plain.images))
    assert "begin_strength" not in found.provenance[0].settings


def test_pictures_with_and_without_neighbors_are_not_drawn_at_once_but_are_by_the_studio(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], retriever: Retriever
) -> None:
    told = f"expected a neighbor for every prompt or for none, got none for '{PROMPTS[2]}'"
    with pytest.raises(MixedBatchError, match=told):
        begun(pipeline, neighbors, PROMPTS)

    class Selective:
        """Finds nothing for one of the prompts."""

        corpus = retriever.corpus

        def search(self, query: Any) -> Any:
            results = retriever.search(query)
            hits = [
                replace(hits, pair_ids=(), scores=()) if text == PROMPTS[2] else hits
                for text, hits in zip(query.texts, results.hits, strict=True)
            ]
            return replace(results, hits=hits)

    pipeline.retriever = cast(Searcher, Selective())
    pipeline.begin_strength = HALF
    options = {"num_inference_steps": 4}
    drawn = list(studio.draw(pipeline, PROMPTS, [5], variants=["retrieved"], options=options))
    assert [one.provenance.prompt for one in drawn] == PROMPTS
    assert [one.provenance.settings.get("begin_strength") for one in drawn] == [HALF, HALF, None]
    alone = list(studio.draw(pipeline, PROMPTS[:1], [5], variants=["retrieved"], options=options))
    assert np.array_equal(alone[0].pixels, drawn[0].pixels)


def test_samples_of_prompts_with_and_without_neighbors_are_drawn_too(
    tiny_generator: Generator, tiny_corpus: Corpus, default_config: Config, tmp_path: Path
) -> None:
    save_generator(tiny_generator, tmp_path)
    changed = {"begin_strength": HALF, "num_inference_steps": 4, "precision": "fp32"}
    config = default_config.model_copy(update={"sample": default_config.sample.model_copy(update=changed)})
    prompts = [
        Prompt(
            prompt_id=text, split="test", entity="", family="", title="", style="", kind="caption", text=text,
            default=True, seed=number,
        )
        for number, text in enumerate(PROMPTS)
    ]  # fmt: skip
    rows = [
        PromptNeighbors(
            exclude=(), retrieved=tuple(names), scores=(1.0,) * len(names), parts={}, oracle=(), random=()
        )
        for names in LISTS
    ]  # fmt: skip
    drawer = BatchDrawer(model=tmp_path, config=config, corpus=tiny_corpus)
    batch = Batch(variant="retrieved", prompts=prompts, neighbors=rows, begin={})
    drawn, traces = drawer(batch)
    assert [one.settings.get("begin_strength") for one in drawn.provenance] == [HALF, HALF, None]
    assert len(traces) == len(drawn.pixels) == 3
    alone, _ = drawer(replace(batch, prompts=prompts[:1], neighbors=rows[:1]))
    assert np.array_equal(alone.pixels[0], drawn.pixels[0])


def test_what_the_pipeline_has_is_left_beside_a_picture_to_begin_with(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    given: dict[str, Any] = {"image": neighbors[1][0].image, "strength": 0.75, "begin_strength": None}
    plain = begun(pipeline, neighbors[0], PROMPTS[:1], **given)
    pipeline.begin_strength = HALF
    again = begun(pipeline, neighbors[0], PROMPTS[:1], **given)
    assert np.array_equal(as_arrays(again.images), as_arrays(plain.images))
    given["begin_strength"] = HALF
    told = "begin_strength: expected none beside image=, which is begun with already, got 0.5"
    with pytest.raises(ValueError, match=told):
        begun(pipeline, neighbors[0], PROMPTS[:1], **given)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"begin_strength: expected a share of the steps in \(0, 1\]"):
            begun(pipeline, neighbors[0], PROMPTS[:1], begin_strength=wrong)
