"""The code that MLflow runs to serve a model: a prompt in, an image and its provenance out.

MLflow keeps this file with the model and runs it at load ("models from code"): there is no pickle. Beside it lies the
project's folder: params.yaml, generator, corpus, encoder, vectors and index.

    mlflow models serve -m models:/rag-diffusion@champion --env-manager local -p 8000
    curl localhost:8000/invocations -H 'content-type: application/json' \
        -d '{"dataframe_records": [{"prompt": "a red apple, outlined"}], "params": {"seed": 1}}'
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import DEADLINE_EXCEEDED
from mlflow.pyfunc import PythonModel, scoring_server

from rag_diffusion.config import load_config
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.marks.credentials import ContentCredentials
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.project import open_pipeline, retrieval_options
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.provenance import to_png
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.serving.bounded_scoring import bound_scoring_server, failed
from rag_diffusion.serving.draw_request import DEFAULTS, DrawRequest, DrawRequestError
from rag_diffusion.serving.given_neighbors import read_neighbors
from rag_diffusion.serving.memory import give_back
from rag_diffusion.spans import Span, recording
from rag_diffusion.tracking.traces import write_traces

TRACED = "RAG_DIFFUSION_TRACE_ANSWERS"


class RetrievalModel(PythonModel):
    """Serves `RetrievalPipeline` of one project.

    With MLFLOW_TRACKING_URI every answer is traced in the experiment MLFLOW_EXPERIMENT_NAME ("Default" without), unless
    RAG_DIFFUSION_TRACE_ANSWERS is `false`.
    """

    def load_context(self, context: Any) -> None:
        """Read the project; `context.artifacts["project"]` is its folder."""
        if scoring_server._SERVER_MODEL_PATH in os.environ:  # this is the process of `mlflow models serve`
            bound_scoring_server()
        self._drawing = Lock()
        self.root = Path(context.artifacts["project"])
        self.config = load_config(self.root / "params.yaml")
        self.sign = ContentCredentials.of_project(self.config.marks.credentials, self.root)
        base = KnowledgeBase.open(self.root)
        base.retriever()  # says at once what is the matter
        self.pipeline = open_pipeline(self.root, retriever=base, precision=self.config.sample.precision)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One image for each prompt.

        Args:
            context: of MLflow.
            model_input: a column `prompt`; see `DrawRequest` for the limits. A column `neighbors`, where there is one,
                has neighbors by hand, see `read_neighbors`; negative ones alone are beside those that are retrieved.
            params: `seed` of the first image, the next has the next; `num_neighbors`; `num_inference_steps`;
                `weight_by_step` and `weight_by_map` of retrieved neighbors; `where`, which pairs may be retrieved.

        Returns:
            Columns `image`, a PNG in base64 that holds its provenance as well, and `provenance`, as JSON.

        Raises:
            MlflowException: what is asked is beyond a limit (400), or took too long (504).
        """
        try:
            prompts, given = (list(model_input.get(name, [])) for name in ("prompt", "neighbors"))
            request = DrawRequest.checked(prompts, params, given)
            by_hand = [read_neighbors(*pair) for pair in zip(request.neighbors, request.prompts, strict=False)]
        except DrawRequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        end = time.monotonic() + MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
        drawn = []
        told = {name: value for name, value in asdict(request).items() if name != "neighbors"}
        with self._drawing, recording("draw", **told) as root:
            try:
                for number, prompt in enumerate(request.prompts):
                    if time.monotonic() > end:
                        done = f"{number} of {len(request.prompts)} pictures in the time that a request has"
                        raise MlflowException(f"expected all, got {done}; ask for fewer", DEADLINE_EXCEEDED)
                    drawn.append(
                        self._drawn(request, prompt, request.seed + number, by_hand[number] if by_hand else [])
                    )
            except ValueError as error:  # what the pipeline says of an argument that does not fit
                raise MlflowException.invalid_parameter_value(str(error)) from None
            except (MemoryError, RuntimeError) as error:
                raise failed(error) from None
            finally:
                give_back()
            root.outputs = [origin for _, origin in drawn]
        self._trace(root)
        origins = [json.dumps(origin, ensure_ascii=False) for _, origin in drawn]
        return pd.DataFrame({"image": [image for image, _ in drawn], "provenance": origins})

    def _drawn(
        self, request: DrawRequest, prompt: str, seed: int, by_hand: Sequence[Neighbor]
    ) -> tuple[str, dict[str, Any]]:
        """One image as base64, and its provenance; one at a time, so that many take no more memory than one."""
        neighbors, steps = request.num_neighbors, request.num_inference_steps
        sample = self.config.sample
        positive = [neighbor for neighbor in by_hand if not neighbor.negative]
        weights = {"weight_by_step": request.weight_by_step, "weight_by_map": request.weight_by_map}
        options: dict[str, Any] = {name: weight for name, weight in weights.items() if weight}
        if positive:
            options["neighbors"] = [positive]
        else:
            options = retrieval_options(self.config) | options
            options["where"] = request.filter or options["where"]
            if neighbors == 0:
                del options["num_style_neighbors"]
        negative = [neighbor for neighbor in by_hand if neighbor.negative]
        output = self.pipeline(
            [prompt],
            negative_neighbors=[negative] if negative else None,
            num_neighbors=self.config.retrieval.content if neighbors < 0 else neighbors,
            num_inference_steps=sample.num_inference_steps if steps < 0 else steps,
            guidance=Guidance.from_config(sample),
            generator=seeded([seed]),
            **options,
        )
        (image,), (origin,) = output.images, output.provenance
        file = to_png(np.asarray(image), origin)
        return base64.b64encode(file if self.sign is None else self.sign(file, origin)).decode(), origin.as_dict()

    def _trace(self, root: Span) -> None:
        if os.environ.get("MLFLOW_TRACKING_URI") and os.environ.get(TRACED, "true") != "false":
            client, experiment = self._store
            write_traces(client, experiment, [root], {"served": "true"})

    @cached_property
    def _store(self) -> tuple[Any, str]:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        return mlflow.MlflowClient(), str(mlflow.set_experiment(name).experiment_id)


__all__ = ["DEFAULTS", "TRACED", "RetrievalModel"]
mlflow.models.set_model(RetrievalModel())
