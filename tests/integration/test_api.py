"""`rag-diffusion ui` as programs use it: the official client of the OpenAI API, in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from rag_diffusion.layout import BASE
from rag_diffusion.sampling.provenance import read_provenance
from tests.tiny import draw
from tests.unit.serving.served import two_data_sets

pytestmark = pytest.mark.slow
KEY = "0123456789abcdefghij"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUICK = {"prompt": "a red square in noto style", "num_inference_steps": 2, "num_neighbors": 2}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Iterator[str]:
    """A server of the base generator and two data sets, which asks for a key; Ctrl-C ends it amid a drawing."""
    root = tmp_path_factory.mktemp("project")
    shutil.copyfile(project_root / "params.yaml", root / "params.yaml")
    (root / "data").mkdir()
    (root / BASE).symlink_to(project_root / BASE)
    two_data_sets(root, project_root)
    (root / "keys").write_text(f"anna {KEY} read\n")
    (root / "keys").chmod(0o600)
    command = [sys.executable, "-m", "rag_diffusion", "ui", "--project", str(root), "--port", "0"]
    command += ["--keys", str(root / "keys"), "--waiting", "8", "--batch", "4"]
    with (root / "log").open("w") as log:
        running = subprocess.Popen(command, stderr=log, stdout=log)
    end = time.monotonic() + 200
    while not (line := re.search(r"running on (http://127\.0\.0\.1:\d+)", (root / "log").read_text())):
        assert running.poll() is None, (root / "log").read_text()
        assert time.monotonic() < end, (root / "log").read_text()
        time.sleep(0.2)
    while requests.get(f"{line[1]}/ready", timeout=20).status_code != 200:
        assert time.monotonic() < end, (root / "log").read_text()
        time.sleep(0.2)
    yield line[1]
    left = threading.Thread(target=lambda: asked(line[1], num_inference_steps=250), daemon=True)
    left.start()
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) in (0, 130)
    assert "Traceback" not in (root / "log").read_text()


def asked(url: str, **changed: Any) -> requests.Response:
    return requests.post(f"{url}/v1/images/generations", json=QUICK | changed, headers=HEADERS, timeout=200)


def opened(text: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def test_the_official_client_draws_edits_varies_and_reads_errors(url: str, tmp_path: Path) -> None:
    draw("moon", "blue", 0).save(tmp_path / "picture.png")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    script = str(Path(__file__).with_name("openai_client.py"))
    command = [sys.executable, "-I", script, url, KEY, str(tmp_path / "picture.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert told["modules"] == []
    assert told["models"] == ["rag-diffusion", "rag-diffusion"]
    origins = [read_provenance(base64.b64decode(text)) for text in told["generated"]]
    assert [origin.seed for origin in origins] == [7, 8]
    assert told["size"] == "64x64"
    assert told["usage"]["output_tokens"] == 0
    assert told["usage"]["input_tokens_details"]["text_tokens"] == 9
    named = read_provenance(base64.b64decode(told["by_url"]))
    assert {neighbor.pair_id.split("/")[0] for neighbor in named.neighbors} == {"noto"}
    kinds = ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event[:2] for event in told["events"]] == [
        [kind, index] for kind, index in zip(kinds, [0, 1, None], strict=True)
    ]
    assert {opened(event[2]).shape for event in told["events"]} == {(64, 64, 3)}
    assert [one.caption for one in read_provenance(base64.b64decode(told["edited"])).neighbors] == [QUICK["prompt"]]
    masked = opened(told["masked"])
    assert np.abs(masked[:, 40:] - np.asarray(draw("moon", "blue", 0)).astype(int)[:, 40:]).max() <= 1
    neighbors = read_provenance(base64.b64decode(told["masked"])).neighbors
    assert {(one.pair_id.split("/")[0], one.licence) for one in neighbors} == {("noto", "CC0-1.0")}
    assert told["edit_events"] == ["image_edit.completed"]
    assert read_provenance(base64.b64decode(told["varied"])).settings["strength"] == 0.5
    assert [error[:3] for error in told["errors"]] == [
        ["NotFoundError", "model", "model_not_found"],
        ["BadRequestError", "size", None],
        ["BadRequestError", "prompt", None],
        ["RateLimitError", None, "rate_limit_exceeded"],
        ["AuthenticationError", None, "invalid_api_key"],
        ["APIError", None, None],
    ]


def counted(url: str, line: str) -> float:
    text = requests.get(f"{url}/metrics", headers=HEADERS, timeout=20).text
    return float(next(one for one in text.splitlines() if one.startswith(line)).rsplit(" ", 1)[1])


def test_clients_at_once_share_batches_and_each_gets_its_own_picture(url: str) -> None:
    before = counted(url, "rag_diffusion_batch_pictures_count")
    found: dict[int, bytes] = {}

    def ask(seed: int) -> None:
        found[seed] = base64.b64decode(asked(url, seed=seed).json()["data"][0]["b64_json"])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [read_provenance(found[seed]).seed for seed in range(8)] == list(range(8))
    assert counted(url, "rag_diffusion_batch_pictures_count") - before < 8
    alone = base64.b64decode(asked(url, seed=3).json()["data"][0]["b64_json"])
    pixels = [np.asarray(Image.open(io.BytesIO(content))).astype(int) for content in (alone, found[3])]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_a_client_that_leaves_is_drawn_for_no_further(url: str) -> None:
    left, drawn = (counted(url, f'rag_diffusion_pictures_total{{end="{end}"}}') for end in ("left", "drawn"))
    with requests.post(
        f"{url}/v1/images/generations", json=QUICK | {"num_inference_steps": 100, "stream": True, "partial_images": 3},
        headers=HEADERS, timeout=250, stream=True,
    ) as streamed:  # fmt: skip
        assert next(streamed.iter_lines()).startswith(b"event: image_generation.partial_image")
    assert asked(url).status_code == 200  # comes after it
    assert counted(url, 'rag_diffusion_pictures_total{end="drawn"}') == drawn + 1
    assert counted(url, 'rag_diffusion_pictures_total{end="left"}') == left + 1


def test_page_and_knowledge_base_are_served_beside_it(url: str) -> None:
    assert requests.get(f"{url}/ui/", timeout=20, allow_redirects=True).status_code == 200
    hits = requests.post(
        f"{url}/knn-service", json={"text": "a red square", "num_images": 2}, headers=HEADERS, timeout=60
    ).json()
    assert len(hits) == 2
    assert requests.get(f"{url}/v1/models", timeout=20).status_code == 401
    told = requests.get(f"{url}/openapi.json", headers=HEADERS, timeout=60).json()["paths"]
    assert {"/draw", "/v1/images/generations", "/knn-service", "/metrics"} <= set(told)
