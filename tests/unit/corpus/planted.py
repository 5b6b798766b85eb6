"""A made-up package of drawings with planted leaks, and the made-up emoji corpus that it is joined to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion.config import IconifyConfig, OwnConfig
from rag_diffusion.corpus.emoji import Annotation
from rag_diffusion.corpus.iconify import EmojiSources
from rag_diffusion.readers.icon_set import IconSet
from rag_diffusion.readers.images import encode_png, render_svg
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


def write_sets(root: Path) -> IconifyConfig:
    """A source list and the archive that it pins, below `root`."""
    (root / "cache").mkdir()
    archive = root / "cache" / "made-up-1.0.0.tgz"
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
    (root / "wide.yaml").write_text(yaml.safe_dump(source), encoding="utf-8")
    own = OwnConfig(path="", style="own", words="my own", licence="mine", attribution="me")
    return IconifyConfig(
        sets="wide", sources="", wide_sources="wide.yaml", colours="entity", own=own, skin_tones=False, flags=False,
        people=False,
    )  # fmt: skip
