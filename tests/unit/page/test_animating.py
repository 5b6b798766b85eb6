"""The page's tab for clips, without a browser: over a tiny generator and a small knowledge base."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.page.animating import ClipForm, animate, empty
from rag_diffusion.page.handlers import Handlers
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.rollout_settings import RolloutSettings
from tests.tiny import draw
from tests.unit.page.opened import form


@pytest.fixture
def picture(tmp_path: Path) -> str:
    draw("square", "red", 3).save(tmp_path / "mine.png")
    return str(tmp_path / "mine.png")


def clip_form(**changed: Any) -> ClipForm:
    return ClipForm(**({"drawing": form(num_inference_steps=1), "num_frames": 3} | changed))


def test_frames_come_one_by_one_and_then_the_clip_that_plays(handlers: Handlers, picture: str) -> None:
    views = list(animate(handlers, clip_form(files=[picture], licence="CC-BY-4.0")))

    assert [re.findall(r"frame (\d) of 3", clip) for clip, _ in views] == [["1"], ["2"], []]
    clip, strip = views[-1]
    content = re.search(r'src="data:image/webp;base64,([^"]+)"', clip)
    assert content is not None
    with Image.open(io.BytesIO(base64.b64decode(content[1]))) as image:
        assert (image.n_frames, image.size) == (3, (64, 64))  # type: ignore[attr-defined]
    assert 'download="a-red-square-in-noto-style-7.mp4"' in clip
    assert "CC-BY-4.0 (mine.png)" in clip
    assert strip.count("<li>") == 3
    assert "given: mine.png, CC-BY-4.0" in strip
    assert "the frame before (frame/00002)" in strip


def test_the_first_frame_is_drawn_where_none_is_given(handlers: Handlers) -> None:
    (*_, (_, strip)) = animate(handlers, clip_form(num_frames=2))
    assert strip.count("<li>") == 2
    first = strip.split("</li>")[0]
    assert "given" not in first
    assert len(re.findall(r"\(\w+/[^)]+\)", first)) == 2  # retrieved pairs, as the form's number has it


def test_a_visitor_who_leaves_ends_the_clip_and_others_are_drawn(handlers: Handlers, picture: str) -> None:
    calls = []
    hook = handlers.drawer.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    growing = animate(handlers, clip_form(files=[picture], drawing=form(num_inference_steps=200), num_frames=60))
    next(growing)
    growing.close()
    list(animate(handlers, clip_form(files=[picture], num_frames=2)))
    hook.remove()
    assert 0 < len(calls) < 50


def test_the_queue_draws_others_between_the_frames_of_a_clip(handlers: Handlers) -> None:
    rollout = Rollout(
        handlers.drawer.pipeline, "a circle", draw("circle", "red", 0), RolloutSettings(num_frames=4, num_pairs=0),
        options={"num_inference_steps": 1},
    )  # fmt: skip
    frames = handlers.drawer.roll(rollout)
    next(frames)
    next(frames)
    pictures = list(handlers.drawer.stream("a circle", 7, ["none"], (), 0, form(num_inference_steps=1).options))
    assert len(pictures) == 2
    assert [frame.number for frame in frames] == [3, 4]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"num_frames": 65}, ConfigError, "at most 64 here"),
        ({"num_frames": 1}, ValueError, "num_frames: expected"),
        ({"drawing": form(prompt=" ")}, ConfigError, "expected a text"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    changed: dict[str, Any], error: type[Exception], words: str, handlers: Handlers
) -> None:
    with pytest.raises(error, match=words):
        list(animate(handlers, clip_form(**changed)))


def test_a_clip_and_a_broken_picture_are_told(handlers: Handlers, tmp_path: Path, picture: str) -> None:
    frames = [draw("square", color, 3) for color in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ConfigError, match=r"two\.gif: expected pictures here, got a clip"):
        list(animate(handlers, clip_form(files=[str(tmp_path / "two.gif")])))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises((ConfigError, DataError), match=r"broken\.png"):
        list(animate(handlers, clip_form(files=[picture, str(tmp_path / "broken.png")])))


def test_before_the_first_clip_the_tab_says_what_to_do() -> None:
    assert "how it moves" in empty()[0]
