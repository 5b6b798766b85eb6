"""Every door is asked what its schema allows and what it does not; nothing may come that the schema does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from rag_diffusion.serving.queries import global_id
from rag_diffusion.serving.server import Access, create_app
from tests.unit.knowledge.bases import items, make_base
from tests.unit.readers.pictures import mixed
from tests.unit.serving.conformance import CHECKS

DOORS = {
    "/knn-service": "post", "/metadata": "post", "/pairs": "post", "/archives": "post", "/indices-list": "get",
    "/data-sets": "get", "/health": "get", "/images/{key}": "get", "/ready": "get", "/metrics": "get",
}  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = make_base(tmp_path_factory.mktemp("project"))
    base.add("photos", items(range(12)))
    return create_app(base, Access())


@pytest.fixture(scope="module")
def api(app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as told", "otherwise"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_answers_as_its_schema_says(api: Any, door: str, mode: GenerationMode) -> None:
    operation = api[door][DOORS[door]]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        pytest.skip("nothing can be wrong with it")

    @settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=list(CHECKS))

    ask()


def test_every_door_is_in_the_schema_and_its_examples_are_answered(app: Any) -> None:
    with TestClient(app) as client:
        told = client.get("/openapi.json").json()
        assert {path: next(iter(doors)) for path, doors in told["paths"].items()} == DOORS
        for path in ("/knn-service", "/metadata"):
            body = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            answer = client.post(path, json=body["example"])
            assert (answer.status_code, len(answer.json())) == (200, 3 if path == "/knn-service" else 1)


def test_an_original_comes_as_it_was_with_its_type_and_nothing_that_a_browser_runs(tmp_path: Path) -> None:
    base, source = make_base(tmp_path), mixed()
    base.add("photos", source)
    base.add("bare", items(range(2)), originals=False)
    kinds = {"PNG.x": "png", "JPEG.x": "jpeg", "WEBP.x": "webp", "GIF.x": "gif", "BMP.x": "bmp", "TIFF.x": "tiff"}
    with TestClient(create_app(base, Access())) as client:
        for one in source:
            path = f"/images/{global_id(f'photos/{one.name}')}"
            came = client.get(path, params={"original": 1})
            assert (came.status_code, came.content) == (200, one.image)
            kind = {"drawing.svg": "svg+xml", "clip#00001": "webp"}.get(one.name) or kinds[one.name]
            assert came.headers["content-type"] == f"image/{kind}"
            assert came.headers["content-security-policy"].startswith("sandbox")
            assert came.headers["x-content-type-options"] == "nosniff"
            assert came.headers["content-disposition"] == "attachment"
            assert client.get(path).content == base.retriever().corpus.pair(f"photos/{one.name}").image
        for key in (global_id("bare/00000.png"), 1):
            missing = client.get(f"/images/{key}?original=1")
            assert (missing.status_code, "whose original is kept" in missing.json()["message"]) == (404, True)
        assert client.get("/images/1?original=perhaps").status_code == 422
        item = client.post("/pairs", files={"image": mixed()[6].image}, data={"caption": "an uploaded drawing"}).json()
        assert client.get(f"/images/{item['id']}?original=1").content == mixed()[6].image


def test_numbers_and_switches_are_what_json_calls_so(app: Any) -> None:
    with TestClient(app) as client:
        for wrong in ({"num_images": "3"}, {"deduplicate": "yes"}, {"embedding_input": ["1"]}, {"embedding_input": []}):
            assert client.post("/knn-service", json={"text": "a"} | wrong).status_code == 422
        assert client.post("/metadata", json={"ids": [True]}).status_code == 422


def test_other_machines_may_write_only_where_somebody_said_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rag_diffusion.errors import ConfigError
    from rag_diffusion.serving import server

    started: list[str] = []
    monkeypatch.setattr(server, "run", lambda app, host, port: started.append(host))
    base = make_base(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text("studio " + "w" * 20)
    keys.chmod(0o600)
    for host in ("0.0.0.0", "192.168.1.5", "::"):
        with pytest.raises(ConfigError, match=r"--keys FILE, --read-only or --open-to-all"):
            server.serve(base, Access(), host=host, port=0)
    assert started == []
    server.serve(base, Access(), host="0.0.0.0", port=0, open_to_all=True)
    server.serve(base, Access(read_only=True), host="0.0.0.0", port=0)
    server.serve(base, Access(keys=keys), host="0.0.0.0", port=0)
    server.serve(base, Access(), host="127.0.0.1", port=0)
    assert len(started) == 4


@pytest.mark.parametrize("to_read", [False, True])
def test_the_schema_says_which_doors_need_a_key(app: Any, tmp_path: Path, to_read: bool) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"studio {'w' * 20}\n")
    keys.chmod(0o600)
    locked = create_app(app.state.service.kb, Access(keys=keys, key_to_read=to_read))
    client = TestClient(locked, raise_server_exceptions=False)
    schema = client.get("/openapi.json", headers={"X-API-Key": "w" * 20}).json()

    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    told = {path for path, doors in schema["paths"].items() for door in doors.values() if door.get("security")}
    asked = {path for path, method in DOORS.items() if client.request(method, path.format(key=1)).status_code == 401}
    assert told == asked
    assert told == (set(DOORS) - {"/health", "/ready"} if to_read else {"/pairs", "/archives"})


def test_a_server_without_keys_names_none(app: Any) -> None:
    assert "securitySchemes" not in app.openapi()["components"]
