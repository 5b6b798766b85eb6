"""A user's own folder: both layouts, and every way a pair can be bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_diffusion.config import Config, FolderConfig
from rag_diffusion.corpus.build import build_corpus
from rag_diffusion.corpus.folder import load_pairs
from rag_diffusion.errors import ConfigError
from rag_diffusion.store.corpus import Corpus
from tests.tiny import draw
from tests.unit.knowledge.bases import picture

CONFIG = FolderConfig(path="images", licence="CC0-1.0", attribution="me")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    (path / "sub").mkdir(parents=True)
    draw("circle", "red", 0, 80).save(path / "a.png")
    Image.new("RGBA", (40, 20), (0, 0, 255, 128)).save(path / "sub" / "b.png")
    return path


def reasons(facts: dict) -> dict[str, str]:
    return {row["what"]: row["reason"].split(":")[0] for row in facts["rejected"]}


def metadata(folder: Path, *rows: object) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def test_imagefolder_with_metadata(folder: Path, tmp_path: Path) -> None:
    metadata(
        folder,
        {"file_name": "a.png", "text": "a red  circle", "entity": "circle", "style": "flat"},
        {"file_name": "sub/b.png", "caption": "blue"},
    )
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    first, second = sorted(pairs, key=lambda pair: pair.pair_id)
    assert (first.pair_id, first.caption, first.entity, first.style) == (
        "folder/a.png",
        "a red circle",
        "circle",
        "flat",
    )
    assert (second.entity, second.style, second.licence, second.attribution) == (
        "folder/sub/b.png",
        "default",
        "CC0-1.0",
        "me",
    )
    assert facts["rejected"] == []


def test_image_and_text_side_by_side(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("a red circle\n")
    (folder / "sub" / "b.txt").write_text("blue")
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    assert [pair.caption for pair in pairs] == ["a red circle", "blue"]
    assert facts["rejected"] == []


def test_a_wide_image_stands_on_a_white_square(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "b.txt").write_text("blue")
    pairs, _ = load_pairs(CONFIG, tmp_path, 32)
    corpus_path = tmp_path / "corpus"
    from rag_diffusion.readers.images import decode

    image = decode(pairs[0].image, "b")
    assert image.size == (32, 32)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((16, 16)) == (127, 127, 255)
    assert not corpus_path.exists()


def test_bad_pairs_with_metadata_are_counted_with_their_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "none.png").write_bytes(b"")
    (folder / "lonely.png").write_bytes((folder / "a.png").read_bytes())
    metadata(
        folder,
        {"file_name": "a.png", "text": "fine"},
        {"file_name": "sub/b.png", "text": "  "},
        {"file_name": "gone.png", "text": "x"},
        {"file_name": "cut.png", "text": "x"},
        {"file_name": "none.png", "text": "x"},
        "no json",
        {"file_name": "a.png", "text": "again"},
    )
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    assert [pair.pair_id for pair in pairs] == ["folder/a.png"]
    assert reasons(facts) == {
        "sub/b.png": "empty caption",
        "metadata.jsonl:3": "caption without an image",
        "cut.png": "truncated image",
        "none.png": "empty file",
        "metadata.jsonl:6": "no JSON object with file_name",
        "metadata.jsonl:7": "image named twice",
        "lonely.png": "image without a caption",
    }


def test_bad_pairs_side_by_side_are_counted_with_their_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xff\xfe bad")
    (folder / "ghost.txt").write_text("nobody")
    _, facts = load_pairs(CONFIG, tmp_path, 32)
    assert reasons(facts) == {
        "a.png": "caption is not UTF-8",
        "sub/b.png": "image without a caption",
        "ghost.txt": "caption without an image",
    }


def test_a_folder_becomes_a_corpus_with_a_split_and_counted_rejections(
    folder: Path, tmp_path: Path, default_config: Config
) -> None:
    rows = []
    for number in range(40):
        draw("circle", "red", 0, 64).rotate(number * 9, fillcolor=(number * 6, 255 - number * 6, 128)).save(
            folder / f"{number}.png"
        )
        rows.append({"file_name": f"{number}.png", "text": f"picture {number}"})
    metadata(folder, *rows)
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    config = default_config.corpus.model_copy(update={"source": "folder", "image_size": 32})
    manifest = build_corpus(tmp_path / "corpus", pairs, config, facts)
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(corpus) == 40
    assert manifest["num_rejected"] == 2
    assert manifest["rejected_by_reason"] == {"image without a caption": 2}
    assert set(manifest["counts"]["split"]) == {"train", "validation", "test"}
    assert corpus.table.groupby("family")["split"].nunique().max() == 1


def named(folder: Path, tmp_path: Path, config: Config, *rows: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Splits by file name, and the manifest, of pictures unlike each other."""
    for number, row in enumerate(rows):
        row |= {"file_name": f"n{number:02d}.png", "text": f"picture {number}"}
        (folder / row["file_name"]).write_bytes(picture(number))
    metadata(folder, *rows)
    pairs, facts = load_pairs(CONFIG, tmp_path, 32)
    corpus = config.corpus.model_copy(update={"source": "folder", "image_size": 32})
    manifest = build_corpus(tmp_path / "corpus", pairs, corpus, facts)
    table = Corpus.open(tmp_path / "corpus").table
    return {pair_id.removeprefix("folder/"): split for pair_id, split in table.set_index("pair_id")["split"].items()}, (
        manifest
    )


def test_a_split_that_the_source_names_is_kept_and_one_that_it_lacks_comes_out_of_train(
    folder: Path, tmp_path: Path, default_config: Config
) -> None:
    rows = [{"split": "Test" if number % 4 == 0 else "training"} for number in range(60)]
    splits, manifest = named(folder, tmp_path, default_config, *rows)
    assert {name for name, split in splits.items() if split == "test"} == {
        f"n{4 * number:02d}.png" for number in range(15)
    }
    assert 0 < manifest["counts"]["split"]["validation"] < 15 < manifest["counts"]["split"]["train"]
    assert manifest["doubts"] == []


def test_what_a_source_names_never_tears_an_entity_apart(folder: Path, tmp_path: Path, default_config: Config) -> None:
    rows = [{"split": ("train", "test")[number % 2], "entity": f"thing {number // 2}"} for number in range(60)]
    splits, manifest = named(folder, tmp_path, default_config, *rows)
    assert all(splits[f"n{2 * number:02d}.png"] == splits[f"n{2 * number + 1:02d}.png"] for number in range(30))
    assert set(manifest["counts"]["split"]) == {"train", "validation", "test"}
    assert manifest["doubts"][0].startswith("30 of 30 families of like things stand in several splits of the source")


def test_a_source_without_train_is_split_anew(folder: Path, tmp_path: Path, default_config: Config) -> None:
    splits, manifest = named(folder, tmp_path, default_config, *({"split": "test"} for _ in range(60)))
    assert set(splits.values()) == {"train", "validation", "test"}
    assert manifest["doubts"] == ["the source names test and no train; all was split anew"]


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_a_folder_that_does_not_exist_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="corpus.folder.path: expected images with captions, a folder or a file"):
        load_pairs(CONFIG.model_copy(update={"path": path}), tmp_path, 32)
