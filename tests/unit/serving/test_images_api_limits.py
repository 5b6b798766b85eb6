"""What the images API and `/draw` refuse, count and sign, over a tiny generator and a small knowledge base."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from rag_diffusion.marks.certificates import ROOT, make_development
from rag_diffusion.marks.credentials import ContentCredentials, read_credentials
from rag_diffusion.models.generator import Generator
from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.serving.drawing_queue import DrawingQueue
from tests.unit.page.opened import make_project
from tests.unit.serving.drawing_server import QUICK, drawing_server, generated


def test_a_full_queue_says_when_to_come_again(client: TestClient, queue: DrawingQueue) -> None:
    answer = client.post("/v1/images/generations", json=QUICK | {"n": 5})

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "expected at most 4 pictures to wait" in error["message"]
    assert queue.counts.refused == 5


def test_metrics_count_requests_and_pictures(client: TestClient) -> None:
    generated(client)
    client.get("/made/up")
    client.post("/v1/images/generations", json={})
    text = client.get("/metrics").text

    for line in (
        'rag_diffusion_requests_total{method="POST",path="/v1/images/generations",status="200"} 1.0',
        'rag_diffusion_requests_total{method="POST",path="/v1/images/generations",status="400"} 1.0',
        'rag_diffusion_requests_total{method="GET",path="other",status="404"} 1.0',
        'rag_diffusion_pictures_total{end="drawn"} 1.0',
        'rag_diffusion_batch_pictures_bucket{le="1.0"} 1.0',
        "rag_diffusion_pictures_waiting 0.0",
        "rag_diffusion_model_ready 1.0",
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


def test_pages_of_other_sites_may_ask_where_they_are_named_alone(queue: DrawingQueue) -> None:
    site = {"Origin": "https://studio.example"}
    ask = site | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with drawing_server(queue) as client:
        assert "access-control-allow-origin" not in client.options("/v1/images/generations", headers=ask).headers
        assert client.post("/v1/images/generations", json=QUICK, headers=site).status_code == 403
    with drawing_server(queue, origins=("https://studio.example",)) as client:
        told = client.options("/v1/images/generations", headers=ask)
        assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, "https://studio.example")
        drawn = client.post("/v1/images/generations", json=QUICK, headers=site)
        assert (drawn.status_code, drawn.headers["access-control-allow-origin"]) == (200, "https://studio.example")
        wrong = client.post("/v1/images/generations", json={}, headers=site)
        assert wrong.headers["access-control-allow-origin"] == "https://studio.example"
        ahead = client.options("/v1/images/generations", headers=ask | {"Origin": "https://evil.example"})
        assert (ahead.status_code, ahead.json()["error"]["message"]) == (400, "Disallowed CORS origin")
        other = client.post("/v1/images/generations", json=QUICK, headers={"Origin": "https://evil.example"})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (403, False)


def test_before_there_is_anything_to_retrieve_a_client_is_told_so(
    tmp_path: Path, project_root: Path, tiny_generator: Generator
) -> None:
    queue = DrawingQueue(tmp_path, make_project(tmp_path, project_root, tiny_generator, with_sets=False))
    try:
        with drawing_server(queue) as client:
            refused = client.post("/v1/images/generations", json=QUICK)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_neighbors")
            assert str(tmp_path) not in refused.text
            assert generated(client, num_neighbors=0)["usage"]["input_tokens_details"]["image_tokens"] == 0
    finally:
        queue.close()


def test_a_large_picture_is_decoded_elsewhere_and_a_bomb_is_refused(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, format="PNG")
    answer = client.post("/v1/images/variations", files={"image": buffer.getvalue()}, data={"num_inference_steps": "2"})

    assert answer.status_code == 400
    assert "decompression bomb" in answer.json()["error"]["message"]


def test_pictures_are_signed_and_blocked_prompts_refused_as_params_yaml_says(
    client: TestClient, queue: DrawingQueue, tmp_path: Path
) -> None:
    queue.sign, queue.pipeline.blocklist = ContentCredentials(make_development(tmp_path)), Blocklist(words=("pistol",))
    try:
        files = [generated(client, output_format=kind)["data"][0]["b64_json"] for kind in ("png", "jpeg")]
        drawn = client.post("/draw", json=QUICK).json()["pictures"][0]["image"]
        refused = client.post("/v1/images/generations", json=QUICK | {"prompt": "two Pistols"})
    finally:
        queue.sign = queue.pipeline.blocklist = None
    for file in (*files, drawn):
        found = read_credentials(base64.b64decode(file), [tmp_path / ROOT])
        assert found is not None
        assert found.state == "Trusted"
        assert found.provenance == read_provenance(base64.b64decode(file))
    assert refused.status_code == 400
    assert "has the blocked word 'pistol'" in refused.text


@pytest.mark.parametrize(
    "prompt", ['"a \\ud800 fox"', '"a \\u0000 fox"', '"\\u202e fox"', '"🦊 狐"', '"' + "fox " * 400 + '"']
)
def test_any_text_is_drawn_or_refused_in_words(client: TestClient, prompt: str) -> None:
    body = f'{{"prompt": {prompt}, "num_inference_steps": 1, "num_neighbors": 1}}'
    answer = client.post("/v1/images/generations", content=body.encode("utf-8"))

    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert read_provenance(base64.b64decode(answer.json()["data"][0]["b64_json"])).prompt == json.loads(prompt)
