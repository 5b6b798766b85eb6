"""Clips out of packages: what is joined, what is rejected and why, and in which split each stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.config import ClipsConfig, Config
from rag_diffusion.corpus.clips import ClipSource, load_clips
from rag_diffusion.corpus.emoji import Annotation
from rag_diffusion.errors import DataError
from rag_diffusion.store.clips import Clips, write_clips
from rag_diffusion.store.corpus import Corpus, write_corpus
from tests.clip_files import moving_disc, package, webp
from tests.tiny import tiny_pairs

SIDE = 16
CORPUS_ENTITIES = {"1f34e": "train", "1f34f": "test", "1f350": "validation"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("corpus")
    pairs = [
        replace(pair, entity=entity, family=f"family-{entity}", split=split)
        for pair, (entity, split) in zip(tiny_pairs(SIDE)[::7], CORPUS_ENTITIES.items(), strict=False)
    ]
    facts = {"rejected": [], "kind": "iconify", "split_salt": 0}
    write_corpus(root / "corpus", pairs, image_size=SIDE, facts=facts)
    return Corpus.open(root / "corpus")


@pytest.fixture
def config(default_config: Config) -> ClipsConfig:
    return default_config.clips.model_copy(update={"every": 2, "min_frames": 4, "max_frames": 6})


def load(
    config: ClipsConfig, default_config: Config, corpus: Corpus, cache: Path, files: dict[str, bytes]
) -> tuple[dict, dict]:
    source = ClipSource(words="animated", licence="MIT", attribution="x", packages=(package(cache, "@a/b", files),))
    codes = [*CORPUS_ENTITIES, "1f351", "1f476", "1f469-200d-1f33e", "1f469-200d-1f373"]
    annotations = {
        code: Annotation(title=f"thing {code}", tags=(), group="food", subgroup="food-fruit") for code in codes
    }
    clips, frames, rejected = load_clips(config, source, annotations, corpus, default_config.corpus.split, cache)
    assert [len(pixels) for pixels in frames] == [clip.count for clip in clips]
    assert [clip.start for clip in clips] == np.cumsum([0, *[clip.count for clip in clips]])[:-1].tolist()
    return {clip.entity: (clip, pixels) for clip, pixels in zip(clips, frames, strict=True)}, {
        row["what"]: row["reason"] for row in rejected
    }


def test_what_is_joined_and_what_is_rejected(
    config: ClipsConfig, default_config: Config, corpus: Corpus, tmp_path: Path
) -> None:
    disc = webp(moving_disc(16, 64, "red"))
    files = {
        "assets/1f34e.webp": disc,
        "assets/1f34f-fe0f.webp": webp(moving_disc(16, 64, "green")),
        "assets/1f350.webp": disc[: len(disc) // 2],
        "assets/1f351.webp": webp(moving_disc(1, 64, "red")),
        "assets/1f476.webp": webp(moving_disc(4, 64, "red")),
        "assets/1f476-1f3fb.webp": disc,
        "assets/1f999.webp": disc,
        "assets/1f34e-fe0f.webp": disc,
        "README.md": b"no clip",
    }
    clips, rejected = load(config, default_config, corpus, tmp_path, files)
    assert sorted(clips) == ["1f34e", "1f34f"]
    clip, pixels = clips["1f34e"]
    assert (clip.split, clip.family, clip.title) == ("train", "family-1f34e", "thing 1f34e")
    assert (clips["1f34f"][0].split, clip.seconds, pixels.shape) == ("test", 0.08, (6, SIDE, SIDE, 3))
    assert "thing 1f34e" in clip.caption
    assert "animated" in clip.caption
    assert Counter(reason.split(":")[0] for reason in rejected.values()) == {
        "does not decode": 1, "a clip of one frame": 1, "too short": 1, "skin tone": 1,
        "code point has no annotation": 1, "second clip of an entity": 1,
    }  # fmt: skip


def test_what_the_corpus_does_not_draw_stands_in_one_split_with_its_kin(
    config: ClipsConfig, default_config: Config, corpus: Corpus, tmp_path: Path
) -> None:
    files = {
        "assets/1f469-200d-1f33e.webp": webp(moving_disc(16, 64, "red")),
        "assets/1f469-200d-1f373.webp": webp(moving_disc(16, 64, "black")),
        "assets/1f351.webp": webp(moving_disc(16, 64, "red")),
    }
    clips, _ = load(config, default_config, corpus, tmp_path, files)
    assert len({(clip.family, clip.split) for clip, _ in clips.values()}) == 1, "one character, or one look"


def test_a_train_clip_that_looks_like_a_held_out_one_is_left_out(
    config: ClipsConfig, default_config: Config, corpus: Corpus, tmp_path: Path
) -> None:
    disc = webp(moving_disc(16, 64, "red"))
    clips, rejected = load(
        config, default_config, corpus, tmp_path, {"assets/1f34e.webp": disc, "assets/1f34f.webp": disc}
    )
    assert sorted(clips) == ["1f34f"]
    assert rejected == {"1f34e": "looks like a held-out clip: 1f34f"}


def test_a_clip_in_which_nothing_moves_is_rejected(
    config: ClipsConfig, default_config: Config, corpus: Corpus, tmp_path: Path
) -> None:
    frames = moving_disc(16, 64, "red", speed=0)
    frames[:, 0, 0, 0] = np.arange(16)  # else WebP has one frame
    _, rejected = load(config, default_config, corpus, tmp_path, {"assets/1f34e.webp": webp(frames)})
    assert rejected == {"1f34e": "nothing moves"}


def test_a_list_without_packages_is_told(tmp_path: Path) -> None:
    (tmp_path / "clips.yaml").write_text("words: animated\n")
    with pytest.raises(DataError, match="expected words, licence, attribution and packages"):
        ClipSource.read(tmp_path / "clips.yaml")


def test_no_clip_at_all_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected clips, got none"):
        write_clips(tmp_path / "clips", [], [], facts={"rejected": []})
    assert not (tmp_path / "clips").exists()
    with pytest.raises(DataError, match="make them with"):
        Clips.open(tmp_path / "clips")
