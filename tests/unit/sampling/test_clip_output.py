"""A clip as a file that plays, read again frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ConfigError, DataError, MissingExtraError
from rag_diffusion.readers.frames import clip_pictures
from rag_diffusion.sampling.clip_output import FORMS, RolloutOutput, check_form, encoded, save_clip
from tests.tiny import draw

COLORS = ("red", "green", "blue", "orange", "purple")


def clip(side: int = 64) -> list[Pixels]:
    return [np.asarray(draw("circle", color, 0, side)) for color in COLORS]


@pytest.mark.parametrize(("form", "apart"), [(".webp", 0), (".gif", 2), (".mp4", 14)])
def test_a_clip_is_read_as_it_was_written(form: str, apart: int, tmp_path: Path) -> None:
    path = save_clip(tmp_path / f"clip{form}", iter(clip()), fps=4)
    found = np.stack([np.asarray(one) for one in clip_pictures(path)])
    assert found.shape == (5, 64, 64, 3)
    assert np.abs(found.astype(int) - np.stack(clip())).mean() <= apart
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


def test_pictures_are_shown_as_long_as_is_asked(tmp_path: Path) -> None:
    for form in (".webp", ".gif"):
        with Image.open(save_clip(tmp_path / f"clip{form}", clip(), fps=4)) as image:
            image.seek(1)
            image.load()
            assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 250, 0)  # type: ignore[attr-defined]


def test_a_video_of_odd_sides_is_filled_up(tmp_path: Path) -> None:
    odd = [pixels[:33, :47] for pixels in clip()]
    pictures = clip_pictures(save_clip(tmp_path / "odd.mp4", odd))
    assert {one.size for one in pictures} == {(48, 34)}


def test_a_video_that_ends_in_the_middle_is_told(tmp_path: Path) -> None:
    content = encoded(".mp4", [np.asarray(draw("circle", "red", number % 7, 128)) for number in range(40)])
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.mp4: expected a whole clip"):
        clip_pictures(tmp_path / "cut.mp4")


@pytest.mark.parametrize(
    ("name", "fps", "words"),
    [("clip.avi", 8, r"expected a clip as \.webp, \.gif, \.mp4"), ("clip", 8, "no ending"), ("clip.gif", 80, "fps"),
     ("clip.webp", 0, "fps"), ("clip.mp4", float("nan"), "fps")],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before(name: str, fps: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        RolloutOutput(frames=[draw("circle", "red", 0)], provenance=[None]).save(tmp_path / name, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_without_frames_or_of_different_sizes_is_not_written(tmp_path: Path) -> None:
    for form in FORMS:
        with pytest.raises(ValueError, match="got none"):
            save_clip(tmp_path / f"clip{form}", [])
        with pytest.raises(ValueError, match="frame 2: expected"):
            save_clip(tmp_path / f"clip{form}", [clip(64)[0], clip(32)[0]])
    assert list(tmp_path.iterdir()) == []


def test_a_video_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"rag-diffusion\[video\]"):
        check_form(Path("clip.mp4"), 8)
    check_form(Path("clip.webp"), 8)
