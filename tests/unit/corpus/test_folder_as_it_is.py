"""Folders as people have them: many languages, SVG, cards, numbers for captions, hidden files, links out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_diffusion.config import FolderConfig
from rag_diffusion.corpus.folder import load_pairs
from rag_diffusion.errors import DataError
from rag_diffusion.readers.card import card_licence
from rag_diffusion.readers.images import decode
from rag_diffusion.readers.svg import svg_to_png
from tests.tiny import draw

CONFIG = FolderConfig(path="images", licence="unspecified", attribution="me")
RED = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 8"><rect width="16" height="8" fill="red"/></svg>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    draw("circle", "red", 0, 80).save(path / "a.png")
    (path / "a.txt").write_text("a red circle\nein roter Kreis\n")
    return path


def test_the_first_line_is_the_caption_unless_another_part_is_asked_for(folder: Path, tmp_path: Path) -> None:
    (pair,), facts = load_pairs(CONFIG, tmp_path, 32)
    assert pair.caption == "a red circle"
    assert facts["doubts"][0].startswith("1 of 1 captions are one line of several, e.g. a.png: 'a red circle'")
    (pair,), facts = load_pairs(CONFIG.model_copy(update={"caption": "all"}), tmp_path, 32)
    assert (pair.caption, facts["doubts"]) == ("a red circle ein roter Kreis", [])
    pairs, facts = load_pairs(CONFIG.model_copy(update={"caption": "fr"}), tmp_path, 32)
    assert pairs == []
    assert facts["rejected"][0]["reason"].startswith("no caption in fr: ")


def test_drawings_in_svg_are_rendered(folder: Path, tmp_path: Path) -> None:
    (folder / "b.svg").write_text(RED)
    (folder / "b.txt").write_text("a red bar")
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    assert facts["rejected"] == []
    drawn = next(pair for pair in pairs if pair.caption == "a red bar")
    image = decode(drawn.image, "b")
    assert (image.getpixel((16, 16)), image.getpixel((16, 2))) == ((255, 0, 0), (255, 255, 255))


@pytest.mark.parametrize(
    ("svg", "reason"),
    [
        ("<svg><image href='file:///etc/passwd'/></svg>", "SVG that reaches outside: .*href='file:"),
        ("<svg><style>@import 'x.css';</style></svg>", "SVG that reaches outside"),
        ("<svg><rect fill='url(http://x/y)'/></svg>", "SVG that reaches outside"),
        ("<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>", "SVG with entities"),
        ("<svg viewBox='0 0 1 100000'><rect width='1' height='100000'/></svg>", "SVG out of shape"),
        ("<html/>", "expected an SVG, got a document of <html>"),
        ("<svg", "expected an SVG, got"),
    ],
)
def test_svg_that_could_do_harm_is_refused(svg: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        svg_to_png(svg.encode(), "x.svg")


def test_what_stays_inside_of_its_file_is_drawn() -> None:
    inside = RED.replace("<rect", "<defs><g id='a'/></defs><use href='#a'/><rect style='fill:url(#b)'/><rect")
    assert decode(svg_to_png(inside.encode(), "x"), "x").size == (512, 512)


def test_the_licence_of_a_card_counts_where_nobody_names_one(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\ntags: [a]\n---\n# Images\n")
    assert load_pairs(CONFIG, tmp_path, 32)[0][0].licence == "cc-by-4.0"
    said = CONFIG.model_copy(update={"licence": "MIT"})
    assert load_pairs(said, tmp_path, 32)[0][0].licence == "MIT"
    for text, found in (
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit AND cc0-1.0"),
        ("# no card", ""),
        ("---\n: [\n---", ""),
    ):
        (folder / "README.md").write_text(text)
        assert card_licence(folder) == found


def test_a_number_is_no_caption_a_hidden_picture_is_told_and_no_link_leads_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "secret.json").write_text('{"caption": "top secret"}')
    (folder / "a.txt").unlink()
    for name in ("out.png", "in.png", "c.png", ".hidden.png", "._apple.png"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    for name in ("out.png", "in.png"):
        (folder / name).unlink()
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "c.json").symlink_to(tmp_path / "secret.json")
    (folder / ".hidden.txt").write_text("a hidden circle")
    (folder / "in.txt").write_text("a circle")
    (folder / "out.txt").write_text("a secret")
    (folder / "a.json").write_text('{"caption": 5}')
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    assert [pair.pair_id for pair in pairs] == ["folder/in.png"]
    assert {row["what"]: row["reason"].split(":")[0] for row in facts["rejected"]} == {
        "out.png": "link out of its folder",
        ".hidden.png": "hidden file",
        "a.png": "caption is no text",
        "c.png": "image without a caption",
        "out.txt": "caption without an image",
        "c.json": "link out of its folder",
    }
    assert "secret" not in json.dumps([row["reason"] for row in facts["rejected"] if row["what"] == "out.png"])


def test_entity_and_category_are_two_things(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").unlink()
    rows = [
        {"file_name": "a.png", "text": "x", "class": "apple", "category": "fruit", "license": "MIT", "author": "Ann"}
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (pair,), _ = load_pairs(CONFIG, tmp_path, 32)
    assert (pair.entity, pair.category, pair.licence, pair.attribution) == ("apple", "fruit", "MIT", "Ann")
