"""Joining by code point, captions, duplicates, families, split and prompts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rag_diffusion.config import Config, SplitConfig
from rag_diffusion.corpus.captions import (
    CAPTION_TEMPLATES,
    SENTENCE_TEMPLATES,
    choose,
    describe,
    with_article,
)
from rag_diffusion.corpus.duplicates import duplicate_groups
from rag_diffusion.corpus.emoji import (
    EntityResolver,
    IconSet,
    has_skin_tone,
    is_private,
    normalize_code_points,
    parse_annotations,
)
from rag_diffusion.corpus.prompts import make_prompts
from rag_diffusion.corpus.split import MAX_TEST_FAMILY, assign_splits, families
from rag_diffusion.errors import DataError
from rag_diffusion.readers.images import decode, render_svg
from rag_diffusion.store.corpus import Corpus

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="8" fill="red"/></svg>'


def icon_set(
    style: str,
    chars: dict[str, str],
    icons: list[str],
    aliases: dict[str, dict[str, object]] | None = None,
) -> IconSet:
    return IconSet(
        style=style,
        words=style,
        licence="MIT",
        attribution="x",
        icons={name: {} for name in icons},
        chars=chars,
        aliases=aliases or {},
        size=(8, 8),
    )


def test_code_points_lose_the_variation_selector() -> None:
    assert normalize_code_points("2764-FE0F") == "2764"
    assert has_skin_tone("1f44b-1f3fb")
    assert not has_skin_tone("1f44b")
    assert is_private("e0cd")
    assert not is_private("1f34e")


def test_names_resolve_by_own_table_then_others_then_aliases() -> None:
    sets = {
        "a": icon_set("a", {"1f439": "hamster", "e001": "brain"}, ["hamster", "brain"]),
        "b": icon_set(
            "b",
            {},
            ["hamster-face", "hamster", "turned"],
            {"hamster-face": {"parent": "hamster"}, "turned": {"parent": "hamster", "hFlip": True}},
        ),
        "c": icon_set("c", {"1f9e0": "brain"}, ["brain"]),
    }
    resolver = EntityResolver(sets)
    assert resolver.resolve("b", "hamster") == "1f439"
    assert resolver.resolve("b", "hamster-face") == "1f439"
    assert resolver.resolve("b", "turned") is None, "a flipped drawing is another one"
    assert resolver.resolve("a", "brain") == "e001"
    assert resolver.resolve("b", "brain") == "1f9e0", "a public code point goes before a private one"
    assert resolver.resolve("b", "nobody") is None


def test_annotations_are_keyed_by_normalized_code_points() -> None:
    table = 'emoji,hexcode,group,subgroups,annotation,tags\nx,2764-FE0F,smileys,heart,red heart,"love, like"\n'
    assert parse_annotations(table.encode())["2764"].tags == ("love", "like")


def test_svgs_render_on_white_and_empty_ones_are_refused() -> None:
    image = render_svg(SVG, 16, "x")
    assert image.size == (16, 16)
    assert image.getpixel((2, 8)) == (255, 0, 0)
    assert image.getpixel((13, 8)) == (255, 255, 255)
    with pytest.raises(DataError, match="got an empty picture"):
        render_svg(SVG.replace(b"red", b"white"), 16, "x")
    with pytest.raises(DataError, match="expected an SVG that renders"):
        render_svg(b"<svg", 16, "x")


def test_images_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="got empty file: 0 bytes"):
        decode(b"", "x.png")
    with pytest.raises(DataError, match="x.png: expected a readable image"):
        decode(b"text", "x.png")


def test_articles() -> None:
    assert [with_article(title) for title in ("apple", "car", "scissors", "glass", "ON! arrow")] == [
        "an apple",
        "a car",
        "scissors",
        "a glass",
        "ON! arrow",
    ]


def test_sentences_are_no_captions_and_name_entity_and_style() -> None:
    assert not set(CAPTION_TEMPLATES) & set(SENTENCE_TEMPLATES)
    for template in CAPTION_TEMPLATES + SENTENCE_TEMPLATES:
        text = describe(template, title="tulip", style="Noto", kind="plant")
        assert "tulip" in text
        assert "Noto" in text
        assert "{" not in text
    assert choose(CAPTION_TEMPLATES, "key") == choose(CAPTION_TEMPLATES, "key")


def test_near_duplicates_share_a_group() -> None:
    rng = np.random.default_rng(0)
    first = np.kron(rng.integers(0, 240, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    close = np.clip(first.astype(int) + 12, 0, 255).astype(np.uint8)
    other = 255 - first
    pixels = np.stack([first, close, other, first])
    assert duplicate_groups(["a", "b", "c", "d"], ["e", "e", "e", "f"], pixels, 0.01) == [
        "a",
        "a",
        "c",
        "a",
    ]
    assert duplicate_groups(["a", "b", "c", "d"], ["e", "g", "e", "f"], pixels, 0.01) == [
        "a",
        "b",
        "c",
        "a",
    ]


def test_curated_and_look_alike_entities_share_a_family() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)
    pixels[:] = np.kron(rng.integers(0, 255, (5, 4, 4, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)
    pixels[3] = pixels[2]
    found = families(["1f550", "1f551", "1f34e", "1f345", "1f346"], ["noto"] * 5, pixels)
    assert found["1f550"] == found["1f551"] == "1f550"
    assert found["1f34e"] == found["1f345"] == "1f345"
    assert found["1f346"] == "1f346"


def test_the_split_keeps_families_whole_and_reaches_the_minimums() -> None:
    family_of = {f"e{number}": f"f{number // 2}" for number in range(600)} | {
        f"big{number}": "big" for number in range(MAX_TEST_FAMILY + 1)
    }
    config = SplitConfig(validation=0.1, test=0.1, min_validation_entities=50, min_test_entities=60)
    splits, _ = assign_splits(family_of, dict.fromkeys(family_of, 7), config, enforce=True)
    for number in range(0, 600, 2):
        assert splits[f"e{number}"] == splits[f"e{number + 1}"]
    counts = Counter(splits.values())
    assert counts["validation"] >= 50
    assert counts["test"] >= 60
    assert splits["big0"] == "train"
    assert (
        assign_splits(dict(reversed(family_of.items())), dict.fromkeys(family_of, 7), config, enforce=True)[0] == splits
    )


def test_a_split_that_cannot_be_had_is_refused(default_config: Config) -> None:
    family_of = {f"e{number}": f"f{number}" for number in range(20)}
    with pytest.raises(DataError, match="lower corpus.split.min"):
        assign_splits(family_of, dict.fromkeys(family_of, 7), default_config.corpus.split, enforce=True)


def test_prompts_are_balanced_and_of_held_out_entities(tiny_corpus: Corpus) -> None:
    prompts = make_prompts(tiny_corpus, "test")
    table = tiny_corpus.table
    held_out = set(table.loc[table["split"] == "test", "entity"])
    assert len(prompts) == 36
    assert {prompt.entity for prompt in prompts} == held_out
    default = [prompt for prompt in prompts if prompt.default]
    assert len({prompt.entity for prompt in default}) == len(default) == 12
    assert Counter(prompt.kind for prompt in prompts) == {"caption": 18, "sentence": 18}
    styles = Counter(prompt.style for prompt in prompts)
    assert max(styles.values()) - min(styles.values()) <= 2
    assert len({(prompt.entity, prompt.style) for prompt in prompts}) == 36
