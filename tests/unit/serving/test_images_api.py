"""The images API that clients of OpenAI speak, and `/draw`, over a tiny generator and a small knowledge base."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from rag_diffusion.sampling.provenance import read_provenance
from rag_diffusion.serving.api_openapi import EventTold, StreamedError
from rag_diffusion.serving.drawing_queue import DrawingQueue
from rag_diffusion.serving.drawn_pictures import SharedPictures
from tests.unit.serving.drawing_server import PROMPT, QUICK, drawing_server, generated, opened, picture

RED = base64.b64encode(picture()).decode()


def test_pictures_of_a_text_come_as_the_api_has_them(client: TestClient, queue: DrawingQueue) -> None:
    before = int(time.time())
    told = generated(client, n=2, model="rag-diffusion", user="anna", quality="low")

    assert before <= told["created"] <= time.time()
    assert (told["size"], told["quality"], told["output_format"], told["background"]) == (
        "64x64",
        "low",
        "png",
        "opaque",
    )
    assert [one["seed"] for one in told["data"]] == [7, 8]
    origins = [read_provenance(base64.b64decode(one["b64_json"])) for one in told["data"]]
    assert [origin.seed for origin in origins] == [7, 8]
    assert [origin.settings["num_inference_steps"] for origin in origins] == [2, 2]  # named, whatever the quality
    assert all(len(origin.neighbors) == 2 and origin.neighbors[0].licence for origin in origins)
    names = {source.pair_id for origin in origins for source in origin.neighbors}
    usage = told["usage"]
    assert usage["input_tokens_details"]["text_tokens"] == 9  # [CLS] a red square in not ##o style [SEP]
    assert usage["input_tokens_details"]["image_tokens"] == 80 * len(names)  # attended maps of 8 x 8 and 4 x 4 cells
    assert usage["input_tokens"] == usage["total_tokens"] == sum(usage["input_tokens_details"].values())
    assert usage["output_tokens"] == 0
    assert queue.counts.batches == {2: 1}


def test_a_url_leads_to_the_same_picture_and_needs_no_key(queue: DrawingQueue, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("anna 0123456789abcdefghij read\n")
    keys.chmod(0o600)
    key = {"Authorization": "Bearer 0123456789abcdefghij"}
    with drawing_server(queue, keys=keys, key_to_read=True) as client:
        refused = client.post("/v1/images/generations", json=QUICK)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models").status_code == 401
        drawn = client.post("/v1/images/generations", json=QUICK | {"response_format": "url"}, headers=key).json()
        url = drawn["data"][0]["url"]
        assert url.startswith("http://127.0.0.1/v1/images/files/")
        there = client.get(url)
        assert (there.status_code, there.headers["content-type"]) == (200, "image/png")
        assert read_provenance(there.content).seed == 7
        gone = client.get("/v1/images/files/nothing.png")
        assert (gone.status_code, gone.json()["error"]["param"]) == (404, "name")
        assert client.get("/ready").json() == {"ready": True, "waiting": 0}


def test_servers_that_share_a_folder_keep_the_last_pictures_together(tmp_path: Path) -> None:
    one, other = (SharedPictures(tmp_path / "pictures", most=2) for _ in range(2))
    names = [keeper.keep(bytes([number]), "png") for number, keeper in enumerate((one, other, one))]
    assert [other.get(name) for name in names] == [None, b"\x01", b"\x02"]
    assert [one.get(name) for name in ("..", "\0", "nothing.png")] == [None] * 3


def events_of(content: str) -> list[dict[str, Any]]:
    events = []
    for piece in content.strip().split("\n\n"):
        name, data = piece.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        (StreamedError if name == "event: error" else EventTold).model_validate(events[-1])  # as the schema says
    return events


def test_a_stream_has_partial_pictures_and_then_the_last_one(client: TestClient) -> None:
    asked = QUICK | {"num_inference_steps": 4, "stream": True, "partial_images": 2}
    answer = client.post("/v1/images/generations", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)

    assert [event["type"] for event in events] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert [event.get("partial_image_index") for event in events] == [0, 1, None]
    assert {opened(event["b64_json"]).size for event in events} == {(64, 64)}
    assert events[-1]["usage"]["input_tokens"] > 0
    whole = generated(client, num_inference_steps=4)
    last = [np.asarray(opened(one["b64_json"])).astype(int) for one in (events[-1], whole["data"][0])]
    assert np.abs(last[0] - last[1]).max() <= 1
    (only,) = events_of(client.post("/v1/images/generations", json=QUICK | {"stream": True}).text)
    assert only["type"] == "image_generation.completed"


def test_an_error_within_a_stream_is_an_event(client: TestClient) -> None:
    asked = QUICK | {"stream": True, "num_style_neighbors": 1, "style": "noto"}
    (event,) = events_of(client.post("/v1/images/generations", json=asked).text)

    assert event["type"] == "error"
    assert "expected content neighbors alone" in event["error"]["message"]
    assert event["error"]["type"] == "invalid_request_error"


def test_edits_look_at_the_pictures_that_were_sent(client: TestClient) -> None:
    files = [("image[]", ("a.png", picture("red"))), ("image[]", ("b.webp", picture("blue", kind="WEBP")))]
    words = {name: str(value) for name, value in QUICK.items()} | {"output_format": "png"}
    told = client.post("/v1/images/edits", files=files, data=words)
    assert told.status_code == 200, told.text
    origin = read_provenance(base64.b64decode(told.json()["data"][0]["b64_json"]))

    assert [source.caption for source in origin.neighbors] == [PROMPT, PROMPT]
    assert all(source.pair_id.startswith("given/") for source in origin.neighbors)
    assert "begin" not in origin.settings
    begun = client.post("/v1/images/edits", files=files[:1], data=words | {"strength": "0.5"}).json()
    assert read_provenance(base64.b64decode(begun["data"][0]["b64_json"])).settings["strength"] == 0.5
    none = client.post("/v1/images/edits", data=words, files={"other": b"1"})
    assert (none.status_code, none.json()["error"]["param"]) == (400, "other")
    assert client.post("/v1/images/edits", json=QUICK).status_code == 400


def test_a_part_of_a_picture_is_drawn_anew(client: TestClient) -> None:
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    plain = Image.new("L", (64, 64), 0)
    plain.paste(255, (0, 0, 32, 64))
    files: dict[str, bytes] = {"image": picture("blue")}
    words = {name: str(value) for name, value in QUICK.items()}
    drawn = []
    for one in (mask, plain):
        buffer = io.BytesIO()
        one.save(buffer, format="PNG")
        told = client.post("/v1/images/edits", files=files | {"mask": buffer.getvalue()}, data=words)
        assert told.status_code == 200, told.text
        drawn.append(told.json()["data"][0]["b64_json"])
    pixels, before = (
        np.asarray(opened(text).convert("RGB")).astype(int) for text in (drawn[0], _as_text(files["image"]))
    )
    origin = read_provenance(base64.b64decode(drawn[0]))

    assert drawn[0] == drawn[1]
    assert np.abs(pixels[:, 40:] - before[:, 40:]).max() <= 1
    assert np.abs(pixels[:, :24] - before[:, :24]).mean() > 20
    assert len(origin.neighbors) == 2  # retrieved
    assert not origin.neighbors[0].pair_id.startswith("given/")
    beside = [("image[]", files["image"]), ("image[]", picture("red")), ("mask", buffer.getvalue())]
    told = client.post("/v1/images/edits", files=beside, data=words).json()["data"][0]
    assert [one.caption for one in read_provenance(base64.b64decode(told["b64_json"])).neighbors] == [PROMPT]
    alone = client.post("/draw", json=QUICK | {"mask": _as_text(buffer.getvalue())})
    assert (alone.status_code, alone.json()["message"][:30]) == (422, "mask: expected an image beside")
    whole = {"mask": _as_text(buffer.getvalue()), "image": _as_text(files["image"])}
    assert client.post("/draw", json=QUICK | whole).json()["pictures"][0]["image"] == drawn[0]


def _as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_variations_begin_with_the_picture(client: TestClient) -> None:
    words = {"n": "2", "seed": "3", "num_inference_steps": "4", "strength": "0.5"}
    told = client.post("/v1/images/variations", files={"image": picture()}, data=words)
    assert told.status_code == 200, told.text
    origins = [read_provenance(base64.b64decode(one["b64_json"])) for one in told.json()["data"]]

    assert [(origin.prompt, origin.seed, origin.settings["strength"]) for origin in origins] == [
        ("", 3, 0.5),
        ("", 4, 0.5),
    ]
    assert {source.caption for origin in origins for source in origin.neighbors} == {""}
    streamed = client.post(
        "/v1/images/variations", files={"image": picture()}, data=words | {"stream": "true", "n": "1"}
    )
    assert [event["type"] for event in events_of(streamed.text)] == ["image_variation.completed"]


def test_other_forms_of_files(client: TestClient) -> None:
    for kind, size in (("jpeg", 40), ("webp", 10)):
        told = generated(client, output_format=kind, output_compression=size)
        image = opened(told["data"][0]["b64_json"])
        assert (image.format, image.size) == (kind.upper(), (64, 64))


@pytest.mark.parametrize(
    ("changed", "status", "param", "said"),
    [
        ({"prompt": ""}, 400, "prompt", "at least 1 character"),
        ({"prompt": "   "}, 400, "prompt", "pattern"),
        ({"prompt": "a" * 2001}, 400, "prompt", "at most 2000 characters"),
        ({"prompt": None}, 400, "prompt", "valid string"),
        ({"n": 0}, 400, "n", "greater than or equal to 1"),
        ({"n": 11}, 400, "n", "less than or equal to 10"),
        ({"size": "1024x1024"}, 400, "size", "expected auto, 64x64, as this model draws, got '1024x1024'"),
        ({"model": "dall-e-3"}, 404, "model", "expected 'rag-diffusion', the one that there is, got 'dall-e-3'"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"seed": 2**70}, 400, "seed", "less than or equal to"),
        ({"num_inference_steps": 251}, 400, "num_inference_steps", "less than or equal to 250"),
        ({"output_format": "svg"}, 400, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"background": "transparent"}, 400, "background", "'auto' or 'opaque'"),
        ({"partial_images": 4}, 400, "partial_images", "less than or equal to 3"),
        ({"where": {"colour": ["red"]}}, 400, "where", "Extra inputs"),
        ({"colour": "red"}, 400, "colour", "Extra inputs"),
        ({"colours": ["red"]}, 400, "colours", "should match pattern"),
        ({"colours": ["#dd2e44"], "thresholding": "static"}, 400, "colours", "expected thresholding='palette'"),
        ({"exclude": ["nobody"]}, 400, "exclude", "expected a pair 'nobody', found none"),
        ({"begin_strength": 0}, 400, "begin_strength", "greater than 0"),
        ({"weight_by_step": "never"}, 400, "weight_by_step", "expected constant"),
        ({"neighbors": [{"image": "bm8="}]}, 400, None, "neighbor 0: image: expected a readable image"),
        ({"neighbors": [{"image": "/etc/passwd"}]}, 400, None, "expected a picture in base64"),
        ({"neighbors": [{"image": RED, "licence": 5}]}, 400, None, "neighbor 0: expected licence as a text"),
        (
            {"neighbors": [{"image": RED, "negative": "no"}]},
            400,
            None,
            "neighbor 0: expected negative as true or false",
        ),
        ({"style_images": ["bm8="]}, 400, "style_images", "expected a readable image"),
        ({"text_guidance_scale": 1e9}, 400, "text_guidance_scale", "less than or equal to 100"),
        ({"num_inference_steps": 7, "neighbors": [], "guidance": "wild"}, 400, "guidance", "'none', 'text'"),
    ],
)
def test_what_is_wrong_is_told_in_the_form_of_the_api(
    client: TestClient, changed: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    answer = client.post("/v1/images/generations", json=QUICK | changed)
    error = answer.json()["error"]

    assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error"), error
    assert said in error["message"], error
    assert list(answer.json()) == ["error"]
    assert error["code"] == ("model_not_found" if status == 404 else None)


def test_everything_below_v1_tells_errors_so(client: TestClient) -> None:
    for answer in (
        client.get("/v1/nothing"),
        client.get("/v1/images/generations"),
        client.post("/v1/images/generations", content=b"{" * 100_000),
        client.post("/v1/images/generations", content=b"[1]"),
        client.post("/v1/images/generations", content=b'{"prompt": "' + b"," * 70_000),
        client.get("/v1/models/gpt-image-1"),
        client.post("/v1/images/generations", json=QUICK, headers={"Origin": "https://evil.example"}),
    ):
        assert answer.status_code in (400, 403, 404, 405, 413)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "message" in client.get("/nothing").json()


def test_the_model_is_told(client: TestClient) -> None:
    told = client.get("/v1/models").json()
    (model,) = told["data"]

    assert (told["object"], model["object"], model["id"], model["owned_by"]) == (
        "list", "model", "rag-diffusion", "rag-diffusion",
    )  # fmt: skip
    assert 0 < model["created"] <= time.time()
    assert client.get("/v1/models/rag-diffusion").json() == model


def test_draw_takes_every_option_and_tells_where_a_picture_came_from(client: TestClient) -> None:
    by_hand = {"image": base64.b64encode(picture()).decode(), "caption": "a red moon", "mask": "left", "weight": 2}
    negative = by_hand | {"caption": "a worm", "negative": True, "mask": None, "weight": 1}
    del negative["mask"]
    answer = client.post("/draw", json=QUICK | {"neighbors": [by_hand, negative], "heat_maps": True, "n": 2})
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["pictures"]

    assert (first["variant"], first["seed"], second["seed"]) == ("given", 7, 8)
    sources = first["provenance"]["neighbors"]
    assert [(source["caption"], source["negative"], source["weight"]) for source in sources] == [
        ("a red moon", False, 2.0), ("a worm", True, 1.0),
    ]  # fmt: skip
    assert np.asarray(first["heat_maps"]).ndim == 3
    assert opened(first["image"]).size == (64, 64)
    retrieved = {
        "where": {"source": ["noto"]}, "exclude": ["noto/red-square.png"], "weight_by_step": "early",
        "retrieval_schedule": {"counts": [[0.5, 1]]}, "guidance": "joint", "text_guidance_scale": 2,
        "thresholding": "none", "neighbors": [negative],
    }  # fmt: skip
    told = client.post("/draw", json=QUICK | retrieved).json()["pictures"][0]["provenance"]
    names = [source["pair_id"] for source in told["neighbors"] if not source["negative"]]
    assert names
    assert all(name.startswith("noto/") and name != "noto/red-square.png" for name in names)
    assert (told["settings"]["guidance"]["mode"], told["settings"]["thresholding"]) == ("joint", "none")
    assert [phase["start"] for phase in told["phases"]] == [0, 1]
    for variant, count in (("none", 0), ("random", 2)):
        told = client.post("/draw", json=QUICK | {"variant": variant}).json()["pictures"][0]
        assert (told["variant"], len(told["provenance"]["neighbors"])) == (variant, count)
    told = client.post("/draw", json=QUICK | {"colours": ["#DD2E44", "#ffffff"]}).json()["pictures"][0]["provenance"]
    assert (told["settings"]["thresholding"], told["settings"]["colours"]) == ("palette", ["#dd2e44", "#ffffff"])
    told = client.post("/draw", json=QUICK | {"begin_strength": 0.5}).json()["pictures"][0]["provenance"]
    assert told["settings"]["begin_strength"] == 0.5
    image = {"image": base64.b64encode(picture()).decode(), "strength": 0.5, "num_neighbors": 0}
    told = client.post("/draw", json=QUICK | image).json()["pictures"][0]["provenance"]
    assert told["settings"]["strength"] == 0.5
    wrong = client.post("/draw", json=QUICK | {"num_inference_steps": 999})
    assert (wrong.status_code, list(wrong.json())) == (422, ["message"])
