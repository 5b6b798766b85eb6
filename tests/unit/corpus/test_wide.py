"""The wide corpus: a made-up package with planted leaks, joined to a made-up emoji corpus."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_diffusion.config import Config, IconifyConfig, OwnConfig, SplitConfig
from rag_diffusion.corpus import wide
from rag_diffusion.corpus.build import build_corpus
from rag_diffusion.corpus.emoji import Annotation
from rag_diffusion.corpus.iconify import EmojiSources
from rag_diffusion.corpus.prompts import make_prompts
from rag_diffusion.corpus.wide_pairs import colour_of
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.readers.icon_set import IconSet
from rag_diffusion.readers.images import encode_png, render_svg
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.types import Pair

COLOURS = {"blue": "#0000ff", "red": "#ff0000", "green": "#00aa00", "gray": "#777777"}
TACO = '<path fill="{}" d="M1 18a11 11 0 0 1 22 0z"/><path fill="white" d="M5 15l3-4 2 5 3-6 2 6z"/>'
STAR = '<path fill="currentColor" d="M12 2l3 7h8l-6 5 2 8-7-5-7 5 2-8-6-5h8z"/>'
HOUSE = '<path fill="currentColor" d="M12 2L2 11v11h7v-7h6v7h7V11z"/>'
BARS = '<path fill="currentColor" d="M2 3h{}v3H2zm0 7h12v3H2zm0 7h6v3H2z"/>'
ARCH = '<path fill="none" stroke="currentColor" stroke-width="{}" d="M4 22V12a8 8 0 0 1 16 0v10"/>'


def blots(seed: int) -> dict[str, object]:
    """A drawing that is like no other."""
    numbers = random.Random(seed)
    places = [[numbers.randrange(1, 20) for _ in range(2)] for _ in range(7)]
    sizes = [[numbers.randrange(2, 8) for _ in range(2)] for _ in range(7)]
    rects = [f"M{x} {y}h{w}v{h}h-{w}z" for (x, y), (w, h) in zip(places, sizes, strict=True)]
    return row(f'<path fill="currentColor" d="{"".join(rects)}"/>')


def row(body: str, **more: object) -> dict[str, object]:
    return {"body": body, **more}


def icons(prefix: str, rows: Mapping[str, dict[str, object]], **more: Any) -> dict[str, Any]:
    licence = more.pop("licence", "MIT")
    category = more.pop("category", "UI 24px")
    info = {
        "name": f"{prefix.capitalize()} Icons", "author": {"name": "A. Nyone"}, "license": {"spdx": licence},
        "category": category, "palette": False,
    }  # fmt: skip
    return {"prefix": prefix, "info": info, "icons": dict(rows), "width": 24, "height": 24, **more}


def planted() -> list[dict[str, Any]]:
    """Sets that hold the test entity `taco` in every disguise, and innocent drawings beside it."""
    recoloured = TACO.format("currentColor")
    smaller = f'<g transform="translate(24 6) scale(-.6 .6)">{recoloured}</g>'

    def innocent(size: int) -> dict[str, dict[str, object]]:
        return {
            "house": row(HOUSE), "home-house": row(HOUSE.replace("22", "20")), "bars": row(BARS.format(size)),
            "portal": row(ARCH.format(size / 4)),
        }  # fmt: skip

    alpha = icons(
        "alpha",
        innocent(20)
        | {
            "taco": blots(1), "tacos": blots(2), "taco-truck": blots(3), "fishtaco": blots(4), "fish": blots(5),
            "van": blots(15), "u1f32e": blots(6), "tortilla": blots(7), "lid": row(recoloured),
            "bars-bold": row(BARS.format(15)), "picture": row("<image/>"), "gone": row(STAR, hidden=True),
            "brand-x": row(STAR), "empty": row("<g/>"), "portal-bold": row(ARCH.format(9)),
        },
        aliases={"taco-folded": {"parent": "tortilla"}, "house-turned": {"parent": "house", "rotate": 1}},
        suffixes={"": "Regular", "bold": "Bold"},
    )  # fmt: skip
    beta = icons(
        "beta",
        innocent(9)
        | {
            "lid": row(smaller), "fish": blots(8), "lonely": row(STAR), "taco-truck": blots(9),
            "fishtaco": blots(10), "tortilla": blots(11), "van": blots(9),
        },
    )  # fmt: skip
    gamma = icons(
        "gamma",
        innocent(4)
        | {
            "lid": blots(12),
            "fish": blots(13),
            "van": blots(16),
            "tortilla": blots(14),
            "empty": row("<g/>"),
            "bars-16": row(BARS.format(20)),
        },
        chars={"1f32e": "portal", "e001": "house"},
    )
    return [
        alpha, beta, gamma,
        icons("paid", innocent(9), licence="CC-BY-NC-4.0"), icons("copyleft", innocent(9), licence="GPL-3.0"),
        icons("marks", innocent(9), category="Logos"), icons("noto", innocent(9)),
    ]  # fmt: skip


def emoji_pair(entity: str, title: str, split: str, style: str, body: str) -> Pair:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">{body}</svg>'.encode()
    return Pair(
        pair_id=f"iconify/{style}/{title.replace(' ', '-')}", source=f"iconify/{style}", entity=entity, family=entity,
        category="things", style=style, title=title, caption=title, licence="MIT", attribution="x",
        image=encode_png(render_svg(svg, 64, title)), original=svg, split=split, duplicate_group=title,
    )  # fmt: skip


EMOJI = [
    emoji_pair("1f32e", "taco", "test", "noto", TACO.format("#f0a020")),
    emoji_pair("1f3e0", "house", "train", "noto", HOUSE),
    emoji_pair("2b50", "star", "validation", "noto", STAR),
]
TITLES = {"1f32e": "taco", "1f3e0": "house", "2b50": "star"}
SOURCES = EmojiSources(
    sets={
        "noto": IconSet(
            style="noto", words="Noto", licence="MIT", attribution="x", icons={name: {} for name in TITLES.values()},
            chars=TITLES, aliases={}, size=(24, 24),
        )
    },
    annotations={
        entity: Annotation(title=title, tags=(), group="things", subgroup="things") for entity, title in TITLES.items()
    },
    packages={},
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> IconifyConfig:
    """A source list and the archive that it pins, below `tmp_path`."""
    (tmp_path / "cache").mkdir()
    archive = tmp_path / "cache" / "made-up-1.0.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for data in planted():
            content = json.dumps(data).encode()
            entry = tarfile.TarInfo(f"package/json/{data['prefix']}.json")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    source = {
        "package": {"package": "made-up", "version": "1.0.0", "integrity": f"sha512-{digest}"},
        "licences": ["MIT"], "left_out_categories": ["Logos"], "left_out_sets": {"noto": "an emoji set"},
        "logo_sets": ["marks"], "houses": {}, "least": {"drawings": 2, "houses": 2}, "colours": COLOURS,
        "weak_words": ["a", "the"], "synonyms": {"taco": {"names": ["burrito"], "exact": ["wrap"]}},
    }  # fmt: skip
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(source), encoding="utf-8")
    own = OwnConfig(path="", style="own", words="my own", licence="mine", attribution="me")
    return IconifyConfig(
        sets="wide", sources="", wide_sources="wide.yaml", colours="entity", own=own, skin_tones=False, flags=False,
        people=False,
    )  # fmt: skip


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
