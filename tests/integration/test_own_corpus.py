"""A user's own folder of images through every stage, by params.yaml alone, from the promoted base generator."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.config import load_config
from rag_diffusion.errors import LineageError
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.serving import registry
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import ARTIFACTS, STORE, NullTracker
from tests.tiny import tiny_pairs

STAGES = ("ingest", "align", "embed", "index", "neighbors", "baselines", "finetune", "sample", "score")
CHANGES = {
    "corpus": {"source": "folder", "folder": {"path": "data/sources/mine", "licence": "CC0-1.0", "attribution": "me"}},
    "encoder": {"epochs": 2, "batch_size": 32},
    "finetune": {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "validate_every": 2},
    "sample": {"num_inference_steps": 2, "variants": ["none", "random", "retrieved", "oracle"]},
    "score": {"bootstrap_draws": 100},
}


def write_folder(folder: Path) -> None:
    """105 drawings with labels, and one of each kind of bad pair."""
    folder.mkdir(parents=True)
    rows = []
    for number, pair in enumerate(tiny_pairs()[:105]):
        (folder / f"{number}.png").write_bytes(pair.image)
        rows.append({"file_name": f"{number}.png", "text": pair.caption, "entity": pair.entity, "style": pair.style})
    (folder / "broken.png").write_bytes(b"\x89PNG")
    rows += [{"file_name": "broken.png", "text": "x"}, {"file_name": "gone.png", "text": "x"}]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A project that has run every stage."""
    root, origin = tmp_path_factory.mktemp("own"), request.config.rootpath
    params = yaml.safe_load((origin / "params.yaml").read_text())
    for section, values in CHANGES.items():
        params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for name in (layout.BASE, layout.RULER, layout.PROMPTS):
        shutil.copytree(origin / name, root / name)
    write_folder(root / "data/sources/mine")
    context = StageContext(config=load_config(root / "params.yaml"), root=root, tracker=NullTracker())
    for stage in STAGES:
        importlib.import_module(f"rag_diffusion.stages.{stage}").run(context)
    return root


@pytest.mark.slow
def test_every_stage_leaves_what_a_user_looks_for(project: Path) -> None:
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert {"none", "random", "retrieved", "oracle", "copied", "real"} <= set(metrics["variants"])
    assert metrics["variants"]["retrieved"]["joint"] is None, "the ruler knows no styles but its own"
    assert metrics["num_prompts"] < 30
    assert metrics["variants"]["retrieved"]["kid"] is None
    assert any(sentence.startswith("KID is not told: expected at least 30 images") for sentence in metrics["notes"])
    assert {"own_real_nearest", "prompt_agreement", "agreement_to_real"} <= set(metrics["variants"]["random"])
    assert (
        metrics["variants"]["real"]["prompt_agreement"]["low"]
        <= metrics["variants"]["real"]["prompt_agreement"]["high"]
    )
    assert (project / "reports/sheets/retrieved.png").stat().st_size > 10_000
    samples = pq.read_table(project / "data/samples/samples.parquet").to_pylist()
    assert {row["variant"] for row in samples} == {"none", "random", "retrieved", "oracle"}
    files = sorted((project / "data/samples/images").rglob("*.png"))
    assert len(files) == len(samples)
    assert {row["image"] for row in samples} == {path.read_bytes() for path in files}
    assert read_provenance(files[-1]).variant == files[-1].parent.name


@pytest.mark.slow
def test_bad_pairs_are_counted_in_the_manifest(project: Path) -> None:
    corpus = Corpus.open(project / layout.CORPUS)
    assert len(corpus) == 105
    assert corpus.manifest["rejected_by_reason"] == {"corrupt image": 1, "caption without an image": 1}


@pytest.mark.slow
def test_neighbors_of_another_corpus_are_refused(project: Path, tiny_corpus: Corpus) -> None:
    with pytest.raises(LineageError, match="neighbors"):
        NeighborTable.open(project / layout.NEIGHBORS, tiny_corpus)


@pytest.mark.slow
def test_a_promoted_model_is_registered_once_and_answers_a_prompt_over_http(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(project / "params.yaml")
    first = registry.promote(project, config, "0" * 32, {"retrieved.kid": "0.5"})
    again = registry.promote(project, config, first.run_id, {})

    assert (first.new, again.new, first.number) == (True, False, again.number)
    assert "Got error" not in caplog.text, "the example that the model is registered with is one that it answers"
    store = f"sqlite:///{project / STORE}"
    client = MlflowClient(store)
    champion = client.get_model_version_by_alias("rag-diffusion", "champion")
    assert (str(champion.version), champion.tags["retrieved.kid"]) == (first.number, "0.5")
    assert [
        file
        for file in (project / ARTIFACTS).rglob("*")
        if file.suffix in (".pkl", ".pickle", ".pt", ".bin") and not file.name.startswith("originals-")  # pictures
    ] == []

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/rag-diffusion@champion"]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls `uvicorn`
    variables = os.environ | {"MLFLOW_TRACKING_URI": store, "PATH": bin_first}
    with subprocess.Popen(command, cwd=project, env=variables, start_new_session=True) as server:
        try:
            asked = {"dataframe_records": [{"prompt": "a green circle"}], "params": {"seed": 3, "num_neighbors": 2}}
            image, provenance = answer(f"http://127.0.0.1:{port}", asked)
            empty = {"dataframe_records": [{"prompt": " "}]}
            with pytest.raises(HTTPError) as refused:
                post(f"http://127.0.0.1:{port}/invocations", empty)
            assert "prompt 0: expected a text of 1 to 2000 characters" in refused.value.read().decode()
        finally:
            os.killpg(server.pid, signal.SIGTERM)

    assert image.size == (64, 64)
    assert (provenance["prompt"], provenance["seed"], len(provenance["neighbors"])) == ("a green circle", 3, 2)
    assert json.loads(image.text["rag_diffusion"]) == provenance
    (trace,) = client.search_traces(locations=["0"])
    assert trace.data.spans[0].inputs["prompts"] == ["a green circle"]
    assert trace.data.spans[0].outputs[0]["neighbors"] == provenance["neighbors"]


def answer(page: str, asked: dict[str, Any], seconds: float = 200.0) -> tuple[Any, dict[str, Any]]:
    """The image and its provenance, once the server is up."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            urlopen(f"{page}/ping", timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < give_up, "the server never answered"
            time.sleep(0.5)
    (row,) = post(f"{page}/invocations", asked)["predictions"]
    return Image.open(io.BytesIO(base64.b64decode(row["image"]))), json.loads(row["provenance"])


def post(page: str, content: dict[str, Any]) -> dict[str, Any]:
    request = Request(page, json.dumps(content).encode(), {"content-type": "application/json"})
    with urlopen(request, timeout=120) as reply:
        found: dict[str, Any] = json.load(reply)
    return found
