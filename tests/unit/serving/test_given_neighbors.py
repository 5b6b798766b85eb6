"""Neighbors by hand in a request to the served model, read and drawn."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from rag_diffusion.config import load_config
from rag_diffusion.models.generator import Generator
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.serving.draw_request import DrawRequestError
from rag_diffusion.serving.given_neighbors import read_neighbors
from rag_diffusion.serving.served import RetrievalModel


def as_text(color: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_picture_in_base64_is_a_neighbor() -> None:
    mask = [0, 0, 0.5, 1]
    entries = [{"image": as_text(), "caption": "mine", "mask": mask, "weight": 2, "weight_by_step": "early"},
               {"image": as_text("blue"), "negative": True, "mask": as_text("white")}]  # fmt: skip
    first, second = read_neighbors(json.dumps(entries), "a prompt")

    assert (first.caption, first.mask, first.weight) == ("mine", (0, 0, 0.5, 1), 2)
    assert (second.caption, second.negative) == ("a prompt", True)
    assert second.mask_pixels(4).min() == 255  # type: ignore[union-attr]
    assert read_neighbors("", "a prompt") == []


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("no JSON", "expected JSON, as"),
        ("[1]", "expected JSON, as"),
        ("[" * 100_000, "expected JSON, as"),
        ([{"caption": "mine"}], "image: expected a picture in base64"),
        ([{"image": "bm8="}], "neighbor 0: image: expected a readable image"),
        ([{"image": as_text(), "mask": "/etc/hostname"}], "neighbor 0"),
        ([{"image": as_text(), "weight": -1}], "expected a finite weight of at least 0, got -1"),
        ([{"image": as_text(), "weight": "much"}], "neighbor 0"),
        ([{"image": as_text(), "weight_by_step": "2,3"}], "weight_by_step: expected constant"),
        ([{"image": as_text(), "path": "a"}], "neighbor 0: expected image, caption, mask, .* got 'path'"),
        ([{"image": as_text()}] * 17, "expected at most 16, got 17"),
    ],
)
def test_what_is_no_neighbor_is_refused(entries: Any, said: str) -> None:
    with pytest.raises(DrawRequestError, match=said):
        read_neighbors(entries if isinstance(entries, str) else json.dumps(entries), "a prompt")


def test_the_served_model_draws_with_neighbors_by_hand(tiny_generator: Generator, project_root: Path) -> None:
    model = RetrievalModel()
    model._drawing, model.config = Lock(), load_config(project_root / "params.yaml")
    model.sign, model.pipeline = None, RetrievalPipeline(tiny_generator)
    model.pipeline.set_progress_bar_config(disable=True)
    given = json.dumps([{"image": as_text(), "mask": "left"}, {"image": as_text("blue"), "negative": True}])
    rows = pd.DataFrame({"prompt": ["a red square"], "neighbors": [given]})
    answer = model.predict(None, rows, {"num_inference_steps": 1})

    told = json.loads(answer["provenance"][0])["neighbors"]
    assert [(bool(one["mask"]), one["negative"]) for one in told] == [(True, False), (False, True)]
    with pytest.raises(MlflowException, match="expected neighbors from the retriever, got neighbors by hand"):
        model.predict(None, rows, {"num_inference_steps": 1, "weight_by_step": "early"})
