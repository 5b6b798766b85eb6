from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from rag_diffusion.errors import ConfigError
from rag_diffusion.serving import keys
from rag_diffusion.serving.keys import Keys, read_keys

WRITER, READER = "w" * 20, "r" * 20


def file_of(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def client(folder: Path, to_read: bool = False, rate: int = 600) -> TestClient:
    async def answer(request: Request) -> Response:
        return PlainTextResponse("here")

    paths = ("/pairs", "/archives", "/knn-service", "/metadata", "/health", "/indices-list", "/new-door")
    app = Starlette(routes=[Route(path, answer, methods=["GET", "POST", "DELETE"]) for path in paths])
    path = file_of(folder, f"# ours\n\nstudio {WRITER}\npage {READER} read\n")
    return TestClient(Keys(app, read_keys(path), to_read, rate))


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/pairs"), ("POST", "/archives"), ("POST", "/new-door"), ("DELETE", "/knn")]
)
def test_to_write_needs_a_key_that_may(tmp_path: Path, method: str, path: str) -> None:
    asked = client(tmp_path)
    found = [
        asked.request(method, path, headers=headers).status_code
        for headers in ({}, with_key("x" * 20), with_key(""), with_key(WRITER[:-1]), with_key(READER), with_key(WRITER))
    ]

    assert found[:5] == [401, 401, 401, 401, 403]
    assert found[5] in (200, 404)
    assert asked.request(method, path, headers={"X-API-Key": WRITER}).status_code == found[5]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/knn-service"), ("POST", "/metadata"), ("GET", "/indices-list")]
)
def test_to_read_needs_one_where_it_is_so_chosen(tmp_path: Path, method: str, path: str) -> None:
    assert client(tmp_path).request(method, path).status_code == 200
    asked = client(tmp_path, to_read=True)
    refused = asked.request(method, path)

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer KEY" in refused.json()["message"]
    assert asked.request(method, path, headers=with_key(READER)).status_code == 200
    assert asked.get("/health").status_code == 200


def test_each_key_has_its_own_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    asked = client(tmp_path, to_read=True, rate=3)

    def ask(key: str) -> Response:
        return asked.get("/indices-list", headers=with_key(key))

    assert [ask(READER).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert ask(READER).headers["retry-after"] == "21"
    assert ask(WRITER).status_code == 200
    now[0] += 20.0
    assert [ask(READER).status_code for _ in range(2)] == [200, 429]


def test_no_key_is_held_in_memory_and_all_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    asked = client(tmp_path)
    asked.post("/pairs", headers=with_key(WRITER))

    assert len(compared) == 2  # also after the first one fits
    assert all(len(part) == 32 for pair in compared for part in pair)
    assert WRITER not in repr(read_keys(tmp_path / "keys"))


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("", 0o600, "expected 1 to 1000 different keys, got 0"),
        ("studio short", 0o600, "keys:1: expected a name, a key of at least 16 characters"),
        (f"studio {WRITER} admin", 0o600, "read or write, got 3 words"),
        (f"a {WRITER}\nb {WRITER}", 0o600, "different keys, got 2 lines"),
        (f"studio {WRITER}", 0o644, "chmod 600"),
    ],
)
def test_a_file_that_holds_no_keys_says_why_and_never_a_key(tmp_path: Path, text: str, mode: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(file_of(tmp_path, text, mode))

    assert WRITER not in str(caught.value)


def test_a_file_that_is_missing_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a file of API keys.*a line is `NAME KEY"):
        read_keys(tmp_path / "none")
