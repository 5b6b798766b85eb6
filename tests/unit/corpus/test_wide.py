"""The wide corpus: a made-up package with planted leaks, joined to a made-up emoji corpus."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rag_diffusion.config import Config, IconifyConfig, SplitConfig
from rag_diffusion.corpus import wide
from rag_diffusion.corpus.build import build_corpus
from rag_diffusion.corpus.prompts import make_prompts
from rag_diffusion.corpus.wide_pairs import colour_of
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.types import Pair
from tests.unit.corpus.planted import ARCH, BARS, COLOURS, EMOJI, HOUSE, SOURCES, TACO, TITLES, write_sets


@pytest.fixture
def config(tmp_path: Path) -> IconifyConfig:
    """A source list and the archive that it pins, below `tmp_path`."""
    return write_sets(tmp_path)


def extended(config: IconifyConfig, root: Path) -> tuple[dict[str, Pair], dict[str, Any]]:
    pairs, facts = wide.extend(EMOJI, sources=SOURCES, config=config, root=root, size=64, cache=root / "cache")
    return {pair.pair_id.removeprefix("iconify/"): pair for pair in pairs}, facts


def test_every_planted_leak_is_found_and_innocent_drawings_are_not(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, facts = extended(config, tmp_path)
    leaks = {
        "words": ["alpha/taco", "alpha/tacos", "alpha/taco-truck", "beta/fishtaco", "alpha/tortilla"],
        "code_point": ["alpha/u1f32e", "gamma/portal"],
        "image": ["alpha/lid", "beta/lid"],
    }
    for how, names in leaks.items():
        found = " ".join(facts["wide"]["held_out"][f"held_out_by_{how}"])
        for name in names:
            assert pairs[name].split == "test", f"{name} by {how}"
            assert f"{name} (test" in found
        assert facts["wide"][f"held_out_by_{how}"] == len(facts["wide"]["held_out"][f"held_out_by_{how}"])
    assert pairs["gamma/lid"].split == "test", "most drawings of a lid look like a taco"
    for name in ("alpha/house", "beta/bars", "gamma/fish", "alpha/portal", "beta/portal"):
        assert pairs[name].split == "train", name


def test_identical_lines_under_another_name_are_kept_out_too(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, facts = extended(config, tmp_path)
    assert pairs["beta/van"].duplicate_group == pairs["beta/taco-truck"].duplicate_group
    assert pairs["beta/van"].split == "test"
    assert any(name.startswith("beta/van (test, duplicate") for name in facts["wide"]["held_out"]["held_out_by_image"])
    assert pairs["alpha/van"].split == "train"


def test_no_entity_and_no_family_stands_in_two_splits(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, _ = extended(config, tmp_path)
    for part in ("entity", "family"):
        places = {(getattr(pair, part), pair.split) for pair in pairs.values()}
        torn = [name for name, count in Counter(name for name, _ in places).items() if count > 1]
        assert torn == [], part


def test_names_join_across_sets_and_with_emoji(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, facts = extended(config, tmp_path)
    assert pairs["alpha/house"].entity == "1f3e0"
    assert pairs["alpha/bars"].entity == pairs["beta/bars"].entity == "name:bars"
    assert pairs["alpha/bars-bold"].style == "alpha-bold"
    assert facts["style_words"]["alpha-bold"] == "Alpha bold"
    assert facts["aligned_styles"] == ["noto"]


def test_rejections_are_counted_by_reason(config: IconifyConfig, tmp_path: Path) -> None:
    counts = extended(config, tmp_path)[1]["wide"]["rejected_by_reason"]
    assert counts["licence left out, CC-BY-NC-4.0"] == 4
    assert counts["licence left out, GPL-3.0"] == 4
    assert counts["category left out, Logos"] == 4
    assert counts["set left out, an emoji set"] == 4
    assert counts["body holds bitmap"] == 1
    assert counts["withdrawn by its set"] == 1
    assert counts["logo or flag"] == 1
    assert counts["draws nothing"] == 2
    assert counts["near-identical drawing of the same entity"] > 0
    assert counts["name with too few drawings"] > 0


def test_the_emoji_part_is_untouched_and_a_second_run_is_the_same(config: IconifyConfig, tmp_path: Path) -> None:
    first, facts = extended(config, tmp_path)
    second, again = extended(config, tmp_path)
    assert first == second
    assert facts == again
    assert [first[pair.pair_id.removeprefix("iconify/")] for pair in EMOJI] == EMOJI


def test_prompts_are_those_of_the_emoji_corpus(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, facts = extended(config, tmp_path)
    facts |= {"rejected": [], "kind": "iconify", "kinds": dict.fromkeys(TITLES, "things")}
    write_corpus(tmp_path / "emoji", EMOJI, image_size=64, facts=facts)
    write_corpus(tmp_path / "wide", pairs.values(), image_size=64, facts=facts)
    prompts = [make_prompts(Corpus.open(tmp_path / name), "test") for name in ("emoji", "wide")]
    assert prompts[0] == prompts[1]


def test_sets_can_be_named_and_must_be_there(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, _ = extended(config.model_copy(update={"sets": ["alpha", "beta"]}), tmp_path)
    assert {name.split("/")[0] for name in pairs} == {"noto", "alpha", "beta"}
    with pytest.raises(DataError, match=r"got \['nobody'\]"):
        extended(config.model_copy(update={"sets": ["nobody"]}), tmp_path)
    with pytest.raises(DataError, match="got paid"):
        extended(config.model_copy(update={"sets": ["paid"]}), tmp_path)


def test_most_drawings_of_an_entity_share_a_colour() -> None:
    names = [colour_of("name:cup", f"set/{number}", COLOURS, "entity") for number in range(400)]
    assert Counter(names).most_common(1)[0][1] == pytest.approx(400 * (0.7 + 0.3 / 4), abs=40)
    assert names == [colour_of("name:cup", f"set/{number}", COLOURS, "entity") for number in range(400)]
    assert {colour_of("name:cup", f"set/{number}", COLOURS, "drawing") for number in range(99)} == set(COLOURS)
    assert colour_of("name:cup", "set/1", COLOURS, "black") == "black"


def test_captions_name_the_thing_the_manner_and_half_of_the_colours(config: IconifyConfig, tmp_path: Path) -> None:
    pairs, facts = extended(config, tmp_path)
    added = [pair for name, pair in pairs.items() if not name.startswith("noto/")]
    assert all(pair.title in pair.caption and facts["style_words"][pair.style] in pair.caption for pair in added)
    coloured = sum(any(name in pair.caption for name in COLOURS) for pair in added)
    assert 0 < coloured < len(added)
    assert all(b"currentColor" not in (pair.original or b"") for pair in added)


def test_ones_own_folder_is_a_style_that_is_never_trained_on(config: IconifyConfig, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    bodies = {"Bars": BARS.format(20), "house": HOUSE, "Taco": TACO.format("#123456"), "only-mine": ARCH.format(2)}
    for name, body in bodies.items():
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">{body}</svg>'
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    (folder / "broken.svg").write_text("<svg", encoding="utf-8")
    own = config.own.model_copy(update={"path": "mine"})
    pairs, facts = extended(config.model_copy(update={"own": own}), tmp_path)
    mine = {name: pair for name, pair in pairs.items() if pair.style == "own"}
    assert sorted(mine) == ["own/bars", "own/house", "own/only-mine", "own/taco"]
    assert {pair.split for pair in mine.values()} == {"test"}
    assert mine["own/taco"].entity == "1f32e"
    assert mine["own/bars"].entity == "name:bars/test"
    trained = {pair.entity for pair in pairs.values() if pair.split == "train"}
    assert not trained & {pair.entity for pair in mine.values()}
    assert all((pair.licence, pair.attribution) == ("mine", "me") for pair in mine.values())
    assert "my own" in mine["own/bars"].caption
    assert facts["style_words"]["own"] == "my own"
    assert facts["wide"]["rejected_by_reason"]["does not render"] == 1


def test_ones_own_folder_must_hold_svg_files(config: IconifyConfig, tmp_path: Path) -> None:
    own = config.own.model_copy(update={"path": "nothing"})
    with pytest.raises(ConfigError, match=r"own\.path: expected a folder with SVG files"):
        extended(config.model_copy(update={"own": own}), tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.svg").write_text("<svg/>", encoding="utf-8")
    own = config.own.model_copy(update={"path": "mine", "style": "alpha"})
    with pytest.raises(ConfigError, match="expected a name that no set has"):
        extended(config.model_copy(update={"own": own}), tmp_path)


def test_the_stage_adds_pairs_to_the_finished_ones_and_counts_their_rejections(
    tmp_path: Path, default_config: Config
) -> None:
    bare = [replace(pair, split="", family="", duplicate_group="") for pair in EMOJI]
    added = replace(EMOJI[0], pair_id="iconify/alpha/taco", style="alpha")
    finished: list[list[Pair]] = []

    def more(pairs: list[Pair]) -> tuple[list[Pair], dict[str, Any]]:
        finished.append(pairs)
        return [*pairs, added], {"wide": {"rejected_by_reason": {"withdrawn by its set": 2}}}

    split = SplitConfig(validation=0.3, test=0.3, min_validation_entities=0, min_test_entities=0)
    config = default_config.corpus.model_copy(update={"source": "folder", "split": split})
    facts = {"rejected": [{"what": "a", "reason": "second drawing in this set: b"}]}
    manifest = build_corpus(tmp_path / "corpus", bare, config, facts, more)
    assert all(pair.split and pair.family and pair.duplicate_group for pair in finished[0])
    assert manifest["num_pairs"] == len(EMOJI) + 1
    assert manifest["num_rejected"] == 3
    assert manifest["rejected_by_reason"] == {"second drawing in this set": 1, "withdrawn by its set": 2}
