"""The page behind the knowledge base's server: keys, hosts, other sites, and what a browser may load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rag_diffusion.errors import ConfigError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.models.generator import Generator
from rag_diffusion.page.mounting import PATH, mounted
from rag_diffusion.page.streaming import Drawer
from rag_diffusion.serving.server import LOOPBACK, Access, check_access, create_app
from tests.unit.page.opened import make_project

URL = "http://127.0.0.1"


@contextmanager
def page(base: KnowledgeBase, **access: Any) -> Iterator[TestClient]:
    """The application of a project."""
    allowed, drawer = Access(**access), Drawer(base.root, base)
    try:
        with TestClient(mounted(create_app(base, allowed, page=PATH), base, drawer, allowed), base_url=URL) as client:
            yield client
    finally:
        drawer.close()


@pytest.fixture
def base(tmp_path: Path, project_root: Path, tiny_generator: Generator) -> KnowledgeBase:
    """A project with weights alone."""
    return make_project(tmp_path, project_root, tiny_generator, with_sets=False)


def test_the_page_stands_beside_the_server_and_loads_nothing_of_others(base: KnowledgeBase) -> None:
    with page(base, hosts=LOOPBACK) as client:
        there = client.get("/")
        assert (there.status_code, there.url.path) == (200, f"{PATH}/")
        policy = there.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert client.get("/health").json()["status"] == "ok"
        assert "content-security-policy" not in client.get("/health").headers
        config = client.get(f"{PATH}/config").json()
        assert config["analytics_enabled"] is False
        labels = {part["props"].get("label") for part in config["components"]}
        assert {"Prompt", "Neighbors", "Guidance", "Licence (required)"} <= labels
        assert client.get("/openapi.json").json()["paths"].keys().isdisjoint({PATH, "/"})


def test_pages_of_other_sites_and_names_cannot_use_it(base: KnowledgeBase) -> None:
    with page(base, hosts=LOOPBACK) as client:
        foreign = client.post(f"{PATH}/gradio_api/queue/join", json={}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert "got one of another site" in foreign.json()["message"]
        assert client.get(f"{PATH}/", headers={"Host": "evil.example"}).status_code == 400
        own = client.post(f"{PATH}/gradio_api/queue/join", json={}, headers={"Origin": URL})
        assert own.status_code == 422


def test_with_keys_the_page_asks_for_one(base: KnowledgeBase, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("anna 0123456789abcdefghij write\n")
    keys.chmod(0o600)
    with page(base, keys=keys, key_to_read=True) as client:
        assert client.get(f"{PATH}/config").status_code == 401
        assert client.get("/data-sets").status_code == 401
        for name, key in (("anna", "wrong"), ("bob", "0123456789abcdefghij")):
            assert client.post(f"{PATH}/login", data={"username": name, "password": key}).status_code == 400
        signed = client.post(f"{PATH}/login", data={"username": "anna", "password": "0123456789abcdefghij"})
        assert signed.status_code == 200
        assert client.get(f"{PATH}/config").status_code == 200


def test_other_machines_need_a_key_as_with_kb_serve() -> None:
    with pytest.raises(ConfigError, match=r"ui: expected --keys FILE, --read-only or --open-to-all with --host 0\.0"):
        check_access(Access(), "0.0.0.0", False, "ui")
    assert check_access(Access(), "127.0.0.1", False, "ui").hosts == LOOPBACK
    assert check_access(Access(read_only=True), "0.0.0.0", False, "ui").hosts == ()
