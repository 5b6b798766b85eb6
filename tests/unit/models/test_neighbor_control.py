"""Weights by step and by map, and masks, in every form that they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.neighbor_control import (
    as_curve,
    as_map_weights,
    as_mask,
    map_weight,
    mask_pixels,
    step_weight,
)


def weights(given: Any, num_steps: int) -> list[float]:
    return [round(step_weight(as_curve(given), step, num_steps), 6) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("early", [1, 1, 0.5, 0, 0]),
        ("late", [0, 0, 0.5, 1, 1]),
        ((0, 0.5), [1, 1, 0, 0, 0]),
        ("0.25,1", [0, 1, 1, 1, 1]),
        ([(0, 2), (0.5, 0)], [2, 1, 0, 0, 0]),
        ("0.5:1, 1:3", [1, 1, 1, 2, 3]),
    ],
)
def test_a_weight_by_step_is_a_name_an_interval_or_a_curve(given: Any, expected: list[float]) -> None:
    assert weights(given, 5) == expected
    assert as_curve(as_curve(given)) == as_curve(given), "its own form is read again"


def test_an_interval_divides_the_steps_without_overlap() -> None:
    for num_steps in (1, 2, 7, 20):
        first, second = weights((0, 0.4), num_steps), weights((0.4, 1), num_steps)
        assert [one + other for one, other in zip(first, second, strict=True)] == [1] * num_steps


@pytest.mark.parametrize(
    "wrong",
    [
        "never",
        (0.5, 0.2),
        (0, 1.5),
        (-0.1, 0.5),
        [(0, -1)],
        [(1.2, 1)],
        [(0.5, 1), (0.2, 1)],
        [(0, float("nan"))],
        3,
        "0.2",
    ],
)
def test_a_curve_beyond_the_steps_or_below_zero_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="weight_by_step: expected constant, .* got"):
        as_curve(wrong)


def test_presets_choose_fine_or_coarse_maps() -> None:
    sides = [16, 8, 4]
    assert [map_weight("style", side, sides) for side in sides] == [1, 0, 0]
    assert [map_weight("layout", side, sides) for side in sides] == [0, 1, 1]
    assert [map_weight("both", side, sides) for side in sides] == [1, 1, 1]
    named = as_map_weights({8: 0.5, 16: 2})
    assert named == as_map_weights("16:2,8:0.5") == as_map_weights(named)
    assert [map_weight(named, side, sides) for side in sides] == [2, 0.5, 1]
    with pytest.raises(ValueError, match=r"expected sides of attended maps, \[16, 8, 4\], got \[32\]"):
        map_weight(as_map_weights({32: 1}), 16, sides)
    with pytest.raises(ValueError, match="attends at maps of 8 alone, got style"):
        map_weight("style", 8, [8])
    for wrong in ("fine", {16: -1}, {}, {"a": 1}, 5):
        with pytest.raises(ValueError, match="weight_by_map: expected both, style, layout or side of a map"):
            as_map_weights(wrong)  # type: ignore[arg-type]


def test_masks_of_every_form_say_the_same(tmp_path: Path) -> None:
    half = np.zeros((8, 8), dtype=bool)
    half[:, :4] = True
    Image.fromarray(half.astype(np.uint8) * 255).save(tmp_path / "half.png")
    opaque = Image.new("RGBA", (16, 16), "white")
    opaque.paste((255, 255, 255, 0), (8, 0, 16, 16))
    forms: list[Any] = ["left", (0, 0, 0.5, 1), "0,0,.5,1", half, half.astype(np.float32), half.astype(np.uint8) * 255,
                        Image.fromarray(half), opaque, tmp_path / "half.png", str(tmp_path / "half.png")]  # fmt: skip
    for form in forms:
        assert np.array_equal(mask_pixels(as_mask(form), 8), half * 255), form
    assert mask_pixels(as_mask((0, 0, 0.3125, 1)), 16)[0].tolist() == [255] * 5 + [0] * 11
    assert mask_pixels(as_mask((0, 0, 0.3125, 1)), 8)[0].tolist() == [255, 255, 128] + [0] * 5, "by area"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((8, 8), dtype=bool), "an empty one"),
        (np.ones((8, 6, 3), dtype=bool), r"expected a picture or an array \(H, W\), got shape \(8, 6, 3\)"),
        (np.full((4, 4), 2.0), "floats from 0 to 1"),
        ((0.5, 0, 0.5, 1), "within 0 and 1, not empty"),
        ((0, 0, 2, 1), "within 0 and 1"),
        ((0, 0, 1), "expected left, right, top, bottom, a box"),
    ],
)
def test_a_mask_that_is_none_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Neighbor(image=Image.new("RGB", (8, 8)), caption="a", mask=wrong)


def test_a_mask_is_square_or_of_the_drawings_aspect() -> None:
    neighbor = Neighbor(image=Image.new("RGB", (8, 8)), caption="a", mask=np.ones((8, 6), dtype=bool))
    assert neighbor.pixels((16, 12)).shape == (16, 12, 3)
    with pytest.raises(ValueError, match=r"square picture or array, .* aspect 8 x 8, got shape \(8, 6\)"):
        neighbor.pixels(8)


def test_a_file_that_is_no_mask_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mask .*middle: expected a picture, or one of left, right, top, bottom"):
        as_mask(str(tmp_path / "middle"))
    dot = np.zeros((512, 512), dtype=bool)
    dot[0, 0] = True
    with pytest.raises(ValueError, match="nothing at 16 px"):
        mask_pixels(as_mask(dot), 16)


def test_a_picture_is_fitted_into_the_box_around_its_mask() -> None:
    red = Image.new("RGB", (64, 64), "red")
    seen = Neighbor(image=red, caption="red", mask="left").pixels(16)
    expected = np.full((16, 16, 3), 255, dtype=np.uint8)
    expected[4:12, :8] = (255, 0, 0)
    assert np.array_equal(seen, expected)
    uncut = Neighbor(image=red, caption="red", mask="left", fit_mask=False)
    assert np.array_equal(uncut.pixels(16), Neighbor(image=red, caption="red").pixels(16))


def test_how_it_is_used_is_part_of_the_name_that_a_picture_is_given() -> None:
    red = Image.new("RGB", (64, 64), "red")
    plain = Neighbor(image=red, caption="red")
    assert Neighbor(image=red, caption="red", weight=2, weight_by_step="constant").name == plain.name
    names = {Neighbor(image=red, caption="red", mask=side).name for side in ("left", "right")}
    assert len(names | {plain.name}) == 3
    assert Neighbor(image=red, caption="red", pair_id="a/b", mask="left").name == "a/b"
