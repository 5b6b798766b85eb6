"""MLflow's scoring server with the bounds around it, over a model that draws nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from starlette.testclient import TestClient

from rag_diffusion.serving.bounded_scoring import MAX_BODY, bound_scoring_server, failed
from rag_diffusion.serving.draw_request import DEFAULTS, DrawRequest, DrawRequestError

JSON = {"content-type": "application/json"}


class Metadata:
    """As a registered model has it."""

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "prompt")]),
        params=ParamSchema([ParamSpec(name, "long", value) for name, value in DEFAULTS.items()]),
    )

    def get_input_schema(self) -> Schema:
        return self.signature.inputs

    def get_params_schema(self) -> ParamSchema:
        return self.signature.params


class Model:
    metadata = Metadata()

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        try:
            asked = DrawRequest.checked(list(data["prompt"]), params)
        except DrawRequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        if asked.prompts == ("break",):
            raise failed(RuntimeError("/secret/path is broken"))
        if asked.prompts == ("unforeseen",):
            raise KeyError("/secret/path")
        return pd.DataFrame({"image": ["drawn"] * len(asked.prompts)})


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(scoring_server, "invocations", scoring_server.invocations)  # put back afterwards
    bound_scoring_server()
    with TestClient(scoring_server.init(Model()), raise_server_exceptions=False) as client:
        yield client


def records(*prompts: Any, **params: Any) -> bytes:
    return json.dumps({"dataframe_records": [{"prompt": one} for one in prompts], "params": params}).encode()


def test_a_good_request_is_answered(client: TestClient) -> None:
    answer = client.post("/invocations", content=records("a red apple", "a moon", seed=5), headers=JSON)

    assert answer.status_code == 200
    assert answer.json() == {"predictions": [{"image": "drawn"}] * 2}


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (records("a", num_inference_steps=0), JSON, 400, "expected a whole number from 1 to 250"),
        (records("a", num_inference_steps=-5), JSON, 400, "got -5"),
        (records(""), JSON, 400, "got an empty one"),
        (records(None), JSON, 400, "prompt 0"),
        (records(*["a"] * 17), JSON, 400, "expected 1 to 16 prompts"),
        (records("a" * 3000), JSON, 400, "got 3000"),
        (records("a" * MAX_BODY), JSON, 413, f"at most {MAX_BODY} bytes"),
        (records(*["a"] * 40_000), JSON, 413, "send fewer prompts"),
        (b"[" * 100_000, JSON, 400, ""),
        (b'{"dataframe_records": ' + b"[" * 100_000, JSON, 400, ""),
        (b"{", JSON, 400, ""),
        (b"5", JSON, 400, ""),
        (records("a"), {}, 415, "expected a content type of application/json or text/csv, got none"),
        (records("a"), {"content-type": "application/vnd.apache.parquet"}, 415, "got application/vnd.apache.parquet"),
        (records("unforeseen"), JSON, 400, ""),
        (records("break"), JSON, 500, "the server's log has the reason"),
    ],
)
def test_every_other_one_is_refused_in_json_without_a_trace(
    client: TestClient, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = client.post("/invocations", content=content, headers=headers)

    assert answer.status_code == status, answer.text
    assert "stack_trace" not in answer.json()
    assert said in answer.json()["message"]
    assert len(answer.content) < 1500
    for place in ("Traceback", "/secret", "site-packages", "rag_diffusion/"):
        assert place not in answer.text
