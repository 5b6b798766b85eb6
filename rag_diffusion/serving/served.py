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
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from rag_diffusion.config import load_config
from rag_diffusion.device import choose_device
from rag_diffusion.layout import MODEL
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import to_png
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.spans import Span, recording
from rag_diffusion.tracking.traces import write_traces

TRACED = "RAG_DIFFUSION_TRACE_ANSWERS"
DEFAULTS = {"seed": 0, "num_neighbors": -1, "num_inference_steps": -1}  # -1: as in params.yaml


class RetrievalModel(PythonModel):
    """Serves `RetrievalPipeline` of one project.

    With MLFLOW_TRACKING_URI every answer is traced in the experiment MLFLOW_EXPERIMENT_NAME ("Default" without), unless
    RAG_DIFFUSION_TRACE_ANSWERS is `false`.
    """

    def load_context(self, context: Any) -> None:
        """Read the project; `context.artifacts["project"]` is its folder."""
        self.root = Path(context.artifacts["project"])
        self.config = load_config(self.root / "params.yaml")
        self.pipeline = RetrievalPipeline.from_pretrained(
            self.root / MODEL,
            self.root,
            scheduler=self.config.sample.scheduler,
            precision=self.config.sample.precision,
            device=choose_device(self.config.device),
        )

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One image for each prompt.

        Args:
            context: of MLflow.
            model_input: a column `prompt`.
            params: `seed` of the first image, the next has the next; `num_neighbors`; `num_inference_steps`.

        Returns:
            Columns `image`, a PNG in base64 that holds its provenance as well, and `provenance`, as JSON.

        Raises:
            ValueError: an empty prompt, or numbers out of range.
        """
        asked = DEFAULTS | {name: value for name, value in (params or {}).items() if value is not None}
        prompts = [str(text) for text in model_input["prompt"]]
        neighbors, steps = int(asked["num_neighbors"]), int(asked["num_inference_steps"])
        with recording("draw", prompts=prompts, **asked) as root:
            drawn = self.pipeline(
                prompts,
                num_neighbors=self.config.retrieval.content if neighbors < 0 else neighbors,
                num_inference_steps=self.config.sample.num_inference_steps if steps < 0 else steps,
                guidance=Guidance.from_config(self.config.sample),
                generator=seeded([int(asked["seed"]) + number for number in range(len(prompts))]),
            )
            root.outputs = [origin.as_dict() for origin in drawn.provenance]
        self._trace(root)
        images = [
            base64.b64encode(to_png(np.asarray(image), origin)).decode()
            for image, origin in zip(drawn.images, drawn.provenance, strict=True)
        ]
        told = [json.dumps(origin.as_dict(), ensure_ascii=False) for origin in drawn.provenance]
        return pd.DataFrame({"image": images, "provenance": told})

    def _trace(self, root: Span) -> None:
        if os.environ.get("MLFLOW_TRACKING_URI") and os.environ.get(TRACED, "true") != "false":
            client, experiment = self._store
            write_traces(client, experiment, [root], {"served": "true"})

    @cached_property
    def _store(self) -> tuple[Any, str]:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        return mlflow.MlflowClient(), str(mlflow.set_experiment(name).experiment_id)


mlflow.models.set_model(RetrievalModel())
