"""What a next frame may look at: which frames are kept, and which are shown; and what the texts say of them."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.arrays import Pixels
from rag_diffusion.sampling.frame_memory import Frame, FrameMemory, thumbnail
from rag_diffusion.sampling.frame_text import frame_caption, frame_prompt


def moving(place: int, side: int = 32) -> Pixels:
    """A red bar on white, at a place across."""
    pixels = np.full((side, side, 3), 255, np.uint8)
    pixels[:, place % side : place % side + 4] = (200, 30, 30)
    return pixels


def filled(places: list[int], capacity: int = 64, **rule: int) -> FrameMemory:
    memory = FrameMemory(capacity, **rule)
    for number, place in enumerate(places, start=1):
        memory.add(Frame(number=number, pixels=moving(place)))
    return memory


def numbers(frames: object) -> list[int]:
    return [frame.number for frame in frames]  # type: ignore[attr-defined]


def test_the_prompt_tells_the_place_and_captions_tell_the_time() -> None:
    assert frame_prompt("a cat.", 2, 8) == "a cat, frame 2 of 8"
    assert frame_caption("a cat", 2, 1) == "a cat, the frame before"
    assert frame_caption("a cat", 3, 1) == "a cat, the first frame"
    assert frame_caption("a cat", 8, 5) == "a cat, 3 frames before"


@pytest.mark.parametrize(("number", "total"), [(0, 4), (5, 4)])
def test_a_frame_outside_of_the_clip_is_refused(number: int, total: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 4"):
        frame_prompt("a cat", number, total)


@pytest.mark.parametrize("shown", [0, 3, 4])
def test_a_caption_of_no_earlier_frame_is_refused(shown: int) -> None:
    with pytest.raises(ValueError, match="before frame 3"):
        frame_caption("a cat", 3, shown)


def test_what_stands_still_is_thinned_and_what_moves_stays() -> None:
    still, moves = [0] * 12, [4, 8, 12, 16]
    memory = filled([*still, *moves, *[16] * 12], capacity=12)
    assert len(memory) == 12
    kept = numbers(memory)
    assert kept[0] == 1
    assert kept[-4:] == [25, 26, 27, 28]
    assert {13, 14, 15, 16} <= set(kept)  # the motion, of which no frame is like another


def test_a_clip_without_motion_is_thinned_evenly_in_time() -> None:
    kept = numbers(filled([0] * 100, capacity=12, num_last=2))
    gaps = np.diff(kept[:-2])
    assert gaps.max() <= 4 * gaps.min()


def test_given_frames_stay() -> None:
    assert numbers(filled([0] * 40, capacity=10, num_first=5))[:5] == [1, 2, 3, 4, 5]


def test_the_last_ones_the_first_one_and_those_that_look_alike_are_shown() -> None:
    memory = filled([0, 6, 12, 18, 24, 18, 12, 6, 0, 6, 12])
    assert numbers(memory.select(num_last=2, num_retrieved=0)) == [11, 10]
    assert numbers(memory.select(num_last=1, num_retrieved=1)) == [11, 1]
    alike = numbers(memory.select(num_last=1, num_retrieved=2, with_first=False, diversity=0.0))
    assert set(alike[1:]) == {3, 7}  # where the bar was at 12 before
    assert len(set(numbers(memory.select(num_last=3, num_retrieved=20)))) == 11


def test_diversity_keeps_away_in_time_from_what_is_shown() -> None:
    memory = filled([0] * 20)
    alike = numbers(memory.select(num_last=1, num_retrieved=3, with_first=False, diversity=1.0))
    assert min(abs(one - other) for one in alike for other in alike if one != other) >= 5


def test_nothing_is_shown_of_nothing() -> None:
    assert FrameMemory().select() == []
    assert numbers(filled([0]).select(num_last=1, num_retrieved=3)) == [1]
    assert numbers(filled([0, 4]).select(num_last=0, num_retrieved=0)) == []


def test_pictures_of_one_colour_have_a_look() -> None:
    white, red = np.full((8, 8, 3), 255, np.uint8), np.full((8, 8, 3), (255, 0, 0), np.uint8)
    assert not thumbnail(white).any()
    assert np.isclose(np.linalg.norm(thumbnail(red)), 1)
    memory = FrameMemory(capacity=6)
    for number in range(1, 20):
        memory.add(Frame(number=number, pixels=white))
    assert len(memory.select(num_last=1, num_retrieved=3)) == 4


def test_what_does_not_fit_is_refused() -> None:
    memory = filled([0, 4])
    with pytest.raises(ValueError, match="after frame 2"):
        memory.add(Frame(number=2, pixels=moving(0)))
    with pytest.raises(ValueError, match=r"frame 3: expected \(32, 32\) pixels"):
        memory.add(Frame(number=3, pixels=moving(0, 16)))
    with pytest.raises(ValueError, match="capacity"):
        FrameMemory(5)
    with pytest.raises(ValueError, match="diversity"):
        memory.select(diversity=2.0)


def test_the_same_frames_leave_the_same_memory() -> None:
    places = [int(place) for place in np.random.default_rng(0).integers(0, 28, 90)]
    assert numbers(filled(places, capacity=16)) == numbers(filled(places, capacity=16))
