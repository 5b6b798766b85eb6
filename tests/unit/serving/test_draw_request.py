from __future__ import annotations

from typing import Any

import pytest

from rag_diffusion.serving.draw_request import MAX_PROMPT, MAX_PROMPTS, DrawRequest, DrawRequestError
from rag_diffusion.store.filters import Filter


def test_what_is_within_the_limits_is_asked() -> None:
    found = DrawRequest.checked(["a red apple", "ein Kätzchen"], {"seed": 2**62, "num_inference_steps": None})

    assert found.prompts == ("a red apple", "ein Kätzchen")
    assert (found.seed, found.num_neighbors, found.num_inference_steps) == (2**62, -1, -1)
    assert DrawRequest.checked(["a"] * MAX_PROMPTS, None).seed == 0


def test_a_filter_comes_as_json_with_the_columns_of_a_search() -> None:
    request = DrawRequest.checked(["a"], {"where": '{"class": ["food", "drink"], "licence": ["MIT"]}'})
    assert request.filter == Filter(classes=("food", "drink"), licences=("MIT",))
    assert DrawRequest.checked(["a"], {}).filter is None
    for wrong in ("food", '{"colour": ["red"]}', '{"class": "food"}', "[]"):
        with pytest.raises(DrawRequestError, match=r'where: expected JSON as \{"class": \["food"\]\}'):
            DrawRequest.checked(["a"], {"where": wrong})


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "expected 1 to 16 prompts, got 0"),
        (["a"] * 17, "got 17; send several requests"),
        (["a"] * 1000, "got 1000"),
        (["a", ""], "prompt 1: expected a text of 1 to 2000 characters, got an empty one"),
        ([" \n"], "got an empty one"),
        (["a" * (MAX_PROMPT + 1)], "got 2001"),
        (["a" * 10_000_000], "got 10000000"),
        ([5], "got int 5"),
        ([None], "got NoneType None"),
        ([float("nan")], "got float nan"),
        ([["a"] * 10_000], "got list"),
    ],
)
def test_prompts_beyond_the_limits_are_refused(prompts: list[Any], said: str) -> None:
    with pytest.raises(DrawRequestError, match=said) as caught:
        DrawRequest.checked(prompts, {})
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"seed": 2**70}, "seed: expected a whole number from 0 to 9223372036854775792, got 1180591620717411303424"),
        ({"seed": -1}, "seed: .* got -1"),
        ({"num_inference_steps": 0}, "from 1 to 250, or -1 for what params.yaml says, got 0"),
        ({"num_inference_steps": -5}, "got -5"),
        ({"num_inference_steps": 1e9}, "got 1000000000.0"),
        ({"num_inference_steps": 2.5}, "got 2.5"),
        ({"num_inference_steps": float("nan")}, "got nan"),
        ({"num_inference_steps": float("inf")}, "got inf"),
        ({"num_neighbors": 17}, "from 0 to 16"),
        ({"num_neighbors": True}, "got True"),
        ({"num_neighbors": "3"}, "got '3'"),
        (
            {"width": 512},
            "expected seed, num_neighbors, num_inference_steps, weight_by_step, weight_by_map, where",
        ),
        ({"weight_by_step": 3}, "weight_by_step: expected a text of at most 300 characters, got 3"),
    ],
)
def test_numbers_out_of_range_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(DrawRequestError, match=said):
        DrawRequest.checked(["a"], params)
