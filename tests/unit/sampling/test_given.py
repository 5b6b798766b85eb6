"""Neighbors as people give them: file names, pictures, pictures with captions, and none at all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.sampling import Neighbor, RetrievalPipeline
from rag_diffusion.sampling.inputs import by_prompt
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.filters import Filter
from tests.unit.sampling.prompts import PROMPTS, draw, quiet, with_roles


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_file_a_picture_and_a_pair_are_neighbors(photo: Path) -> None:
    picture = Image.open(photo)
    given: list[Any] = [str(photo), photo, picture, np.asarray(picture), (photo, "mine"), (picture, "mine")]
    captions = [by_prompt(one, ["an apple"])[0][0].caption for one in given]
    assert captions == ["an apple"] * 4 + ["mine"] * 2
    assert len({one.digest for one in by_prompt(given[:4], ["an apple"])[0]}) == 1
    assert [[one.caption for one in own] for own in by_prompt([given[2]], ["a", "b"])] == [["a"], ["b"]]
    assert [len(own) for own in by_prompt([[photo, picture], []], ["a", "b"])] == [2, 0]
    assert by_prompt([], ["a", "b"]) == [[], []]


def test_a_file_has_its_caption_beside_it_and_may_name_source_and_licence(photo: Path) -> None:
    photo.with_suffix(".txt").write_text("a ripe apple\nzweite Zeile\n")
    one = Neighbor.from_file(photo, licence="CC0-1.0", attribution="me", weight=2)
    assert (one.caption, one.source, one.licence, one.weight) == ("a ripe apple", "photo.png", "CC0-1.0", 2)
    assert Neighbor.from_file(photo, "another").caption == "another"
    assert Neighbor.from_file(photo, source="my album").source == "my album"
    photo.write_bytes(b"no picture")
    with pytest.raises(DataError, match="expected a readable image, got not an image"):
        Neighbor.from_file(photo)


def test_a_file_may_be_a_drawing(tmp_path: Path) -> None:
    file = tmp_path / "sun.svg"
    file.write_text('<svg xmlns="http://www.w3.org/2000/svg"><circle cx="50%" cy="50%" r="40%" fill="red"/></svg>')
    pixels = Neighbor.from_file(file, "a sun").pixels(8)
    assert pixels[4, 4].tolist() == [255, 0, 0]
    assert pixels[0, 0].tolist() == [255, 255, 255]
    file.write_text("<svg>")
    with pytest.raises(DataError, match=r"sun.svg: expected a readable image, got does not render"):
        Neighbor.from_file(file)


def test_a_drawing_from_a_file_says_what_it_was_shown(pipeline: RetrievalPipeline, photo: Path) -> None:
    found = pipeline("an apple", str(photo), num_inference_steps=1).provenance[0].neighbors
    assert [(one.caption, one.source, one.score) for one in found] == [("an apple", "photo.png", None)]


def test_without_retriever_and_neighbors_it_draws_without_and_warns(pipeline: RetrievalPipeline) -> None:
    with pytest.warns(UserWarning, match="got neither: drawing by the prompt alone. .* num_neighbors=0 says"):
        found = draw(pipeline, PROMPTS, generator=seeded([1, 2, 3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(found, draw(pipeline, PROMPTS, num_neighbors=0, generator=seeded([1, 2, 3])))


def test_filters_need_a_knowledge_base(pipeline: RetrievalPipeline, photo: Path) -> None:
    with pytest.raises(ValueError, match="source, where: expected neighbors out of a knowledge base, got neighbors by"):
        pipeline("an apple", photo, source="mine")
    with pytest.raises(ValueError, match="got no retriever; open one by"):
        pipeline("an apple", where=Filter(licences=("MIT",)))


def test_a_saved_scheduler_that_is_replaced_is_told(tiny_generator: Generator, tmp_path: Path) -> None:
    from diffusers import PNDMScheduler

    save_generator(tiny_generator, tmp_path, PNDMScheduler.from_config(tiny_generator.schedule.config))
    with pytest.warns(UserWarning, match="PNDMScheduler was saved with these weights.* drawing with DDIMScheduler"):
        pipeline = RetrievalPipeline.from_pretrained(tmp_path)
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        RetrievalPipeline.from_pretrained(tmp_path, scheduler="DDIMScheduler")


@pytest.mark.parametrize(("given", "kind"), [(5, "int"), (2.5, "float"), ({"photo.png"}, "set")])
def test_what_is_no_picture_is_told_with_an_example(pipeline: RetrievalPipeline, given: object, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"neighbors: expected pictures, got {kind}; for example pipe\("):
        pipeline("an apple", given)  # type: ignore[arg-type]


def test_pictures_of_a_style_are_style_neighbors_beside_the_others(tiny_generator: Generator, photo: Path) -> None:
    pipeline = quiet(RetrievalPipeline(with_roles(tiny_generator)))
    blue = Image.new("RGB", (32, 32), "blue")
    content = Neighbor(image=Image.new("RGB", (16, 16), "green"), caption="a green square")
    options = {"num_inference_steps": 1, "generator": seeded([3])}
    shown = (
        pipeline("an apple", content, style_images=[photo, blue], style="woodcut", **options).provenance[0].neighbors
    )
    assert [(one.role, one.caption) for one in shown] == [
        ("content", "a green square"), ("style", "woodcut"), ("style", "woodcut"),
    ]  # fmt: skip
    alone = pipeline("an apple", num_neighbors=0, style_images=blue, **options).provenance[0].neighbors
    assert [(one.role, one.caption) for one in alone] == [("style", "a picture")]
    with pytest.raises(ValueError, match="style_images: expected pictures or names of image files, got int"):
        pipeline("an apple", num_neighbors=0, style_images=[3], **options)
