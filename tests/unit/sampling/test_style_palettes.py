"""The palette of the style that a prompt asks for, colours by hand, and the provenance of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rag_diffusion import RetrievalPipeline
from rag_diffusion.models.generator import Generator
from rag_diffusion.readers.images import encode_png
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.style_palettes import StylePalettes, as_palette, as_texts
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.types import Pair
from tests.unit.sampling.prompts import quiet

RED, GREEN, WHITE = (221, 46, 68), (20, 160, 60), (255, 255, 255)


def square(colour: tuple[int, int, int], *, shaded: bool = False) -> Image.Image:
    """On white: of one colour, or brighter from row to row."""
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[8:56, 8:56] = colour
    if shaded:
        pixels[8:56, 8:56, 1] = np.arange(48, dtype=np.uint8)[:, None] * 4
    return Image.fromarray(pixels)


def pair(style: str, number: int, image: Image.Image, split: str) -> Pair:
    text = f"square {number}"
    return Pair(
        pair_id=f"{style}/{number}",
        source=style,
        entity=text,
        family=text,
        category="shape",
        style=style,
        title=text,
        caption=f"a square, {style} style",
        licence="CC0-1.0",
        attribution="nobody",
        image=encode_png(image),
        original=None,
        split=split,
        duplicate_group=f"{style} {text}",
    )


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two flat styles, of which one has no train pair, and a shaded one."""
    pairs = [pair("flat", number, square(RED), "train") for number in range(3)]
    pairs += [pair("flat", 3, square(GREEN), "test"), pair("own", 0, square(GREEN), "test")]
    pairs += [pair("watercolour", number, square(RED, shaded=True), "train") for number in range(3)]
    path = tmp_path_factory.mktemp("drawings") / "corpus"
    write_corpus(path, pairs, image_size=64, facts={"rejected": [], "kind": "folder", "style_words": {"own": "my own"}})
    return Corpus.open(path)


def test_a_style_in_flat_colours_gives_them_and_a_shaded_one_gives_static(drawings: Corpus) -> None:
    palettes = StylePalettes(pairs=drawings)
    kind, palette = palettes.choose("a bird in flat style")
    assert kind == "palette"
    assert {tuple(colour) for colour in np.asarray(palette).tolist()} == {RED, WHITE}  # not what was held out
    assert palettes.choose("a bird in watercolour style") == ("static", None)
    assert palettes.choose("a bird") == ("palette", None)
    assert palettes.choose("a bird", "hokusai") == ("palette", None)


def test_a_style_that_is_never_trained_on_gives_what_it_has(drawings: Corpus) -> None:
    for text, style in (("a bird in the style of My Own", None), ("a bird", "own")):
        kind, palette = StylePalettes(pairs=drawings).choose(text, style)
        assert kind == "palette"
        assert {tuple(colour) for colour in np.asarray(palette).tolist()} == {GREEN, WHITE}


def test_a_drawing_has_the_colours_of_its_style_and_is_drawn_again_in_them(
    tiny_generator: Generator, drawings: Corpus
) -> None:
    """Images of one batch, of which one is shaded, are those that are drawn alone."""
    pipe = quiet(RetrievalPipeline(tiny_generator))
    pipe.thresholding, pipe.palettes = "palette", StylePalettes(pairs=drawings)
    texts = ["a bird, flat style", "a bird, watercolour style"]

    def drawn(texts: list[str], **options: Any) -> tuple[Tensor, list[Provenance]]:
        seeds = [torch.Generator().manual_seed(7) for _ in texts]
        nothing: list[list[Any]] = [[] for _ in texts]
        out = pipe(texts, nothing, num_inference_steps=4, generator=seeds, output_type="pt", **options)
        return torch.as_tensor(out.images), out.provenance

    together, told = drawn(texts)
    assert [one.settings["thresholding"] for one in told] == ["palette", "static"]
    assert told[0].settings["colours"] == as_texts(np.array([RED, WHITE]))
    assert "colours" not in told[1].settings
    assert between(together[0], RED, WHITE) < 0.01
    torch.testing.assert_close(together[1], drawn(texts[1:], thresholding="static")[0][0], atol=1e-4, rtol=0)
    pipe.palettes = None  # the provenance has them
    again = pipe.redraw(told[0]).images[0]
    assert np.abs(np.asarray(again, dtype=np.float32) / 255 - together[0].permute(1, 2, 0).numpy()).max() < 0.01


def test_the_palette_is_that_of_the_retrievers_pairs(tiny_generator: Generator, retriever: Retriever) -> None:
    pipe = quiet(RetrievalPipeline(tiny_generator, retriever))
    out = pipe("a red square, noto style", num_inference_steps=2, thresholding="palette")
    style = StylePalettes(pairs=retriever.corpus).choose("a red square, noto style")
    assert (out.provenance[0].settings["thresholding"], style[0]) == ("palette", "palette")
    assert out.provenance[0].settings["colours"] == as_texts(np.asarray(style[1]))


def test_colours_by_hand_in_words_or_read_off_pictures(tiny_generator: Generator, tmp_path: Path) -> None:
    square(GREEN).save(tmp_path / "square.png")
    pipe = quiet(RetrievalPipeline(tiny_generator))

    def drawn(**options: Any) -> tuple[Tensor, dict[str, Any]]:
        seed = torch.Generator().manual_seed(7)
        out = pipe("a cat", [], num_inference_steps=4, generator=seed, output_type="pt", **options)
        return torch.as_tensor(out.images[0]), out.provenance[0].settings

    said, told = drawn(colours=as_texts(np.array([GREEN, WHITE])))
    assert told["thresholding"] == "palette"
    assert between(said, GREEN, WHITE) < 0.01
    for given in ([tmp_path / "square.png"], str(tmp_path / "square.png"), [square(GREEN)]):
        assert torch.equal(drawn(colours=given)[0], said)
    with pytest.raises(ValueError, match="colours: expected thresholding='palette' and a pixel model, got threshold"):
        drawn(colours=["#000000"], thresholding="static")


@pytest.mark.parametrize(("given", "message"), [
    ([], "expected some as '#dd2e44', or pictures to read them off, got none"),
    (["#dd2e4"], "colours: expected them as '#dd2e44', got '#dd2e4'"),
    (["#gg2e44"], "colours: expected them as '#dd2e44', got '#gg2e44'"),
    (["#dd2e44", "picture.png"], "expected colours or pictures, got both"),
    ([3], "colours: expected pictures or names of image files, got int"),
])  # fmt: skip
def test_what_is_no_palette_is_refused(given: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_palette(given)


def between(picture: Tensor, *colours: tuple[int, int, int]) -> float:
    """How far the pixels of a picture (3, H, W) in 0..1 are from the line between two colours, at most."""
    first, second = (torch.tensor(colour) / 255 for colour in colours)
    points, way = picture.flatten(1).T - first, second - first
    along = (points @ way / (way @ way)).clamp(0, 1)
    return float((points - along[:, None] * way).abs().max())
