"""`rag-diffusion kb serve` and `kb add --remote`, as a user runs them on two machines."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.remote.remote_source import RemoteSource
from tests.unit.guarded_http.wild import png
from tests.unit.serving.served import Client, items, make_encoder, open_base

pytestmark = pytest.mark.slow


def kb(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rag_diffusion", "kb", *words, "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture
def root(tmp_path: Path, project_root: Path) -> Path:
    """A project with one data set."""
    shutil.copyfile(project_root / "params.yaml", tmp_path / "params.yaml")
    open_base(tmp_path, project_root, make_encoder(tmp_path)).add("noto", items("noto"))
    return tmp_path


@pytest.fixture
def serving(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "rag_diffusion", "kb", "serve", "--root", str(root), "--port", "0"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert running.stderr is not None
    told = ""
    for line in running.stderr:
        told += line
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        raise AssertionError(told)
    yield running, found[1]
    running.kill()
    running.wait()


def test_one_machine_serves_and_another_one_asks(
    serving: tuple[subprocess.Popen[str], str], tmp_path_factory: pytest.TempPathFactory, project_root: Path
) -> None:
    running, url = serving
    other = tmp_path_factory.mktemp("other")
    shutil.copyfile(project_root / "params.yaml", other / "params.yaml")

    refused = kb(other, "add", "there", "--remote", url)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "--allow-host 127.0.0.1" in refused.stderr
    wrong = kb(other, "add", "there", "--remote", url, "--allow-host", "127.0.0.1", "--index", "photos")
    assert "expected an index 'photos', got all, noto" in wrong.stderr
    added = kb(other, "add", "there", "--remote", url, "--allow-host", "127.0.0.1", "--licence", "CC0-1.0")
    assert added.returncode == 0, added.stderr
    assert "there" in kb(other, "list").stdout

    foreign = requests.get(f"{url}/health", headers={"Host": "evil.example"}, timeout=20)
    assert foreign.status_code == 400
    Client(url).post("/pairs", files={"image": png()}, data={"caption": "a zorkmid"})
    base = KnowledgeBase.open(other)
    answer = RemoteSource.open(base.catalogue.folders, base.info("there")).find(["zorkmid"], top_k=2, deadline=60)
    assert answer.trouble == ""
    assert answer.items[0].item.caption == "a zorkmid"

    running.send_signal(signal.SIGINT)
    assert running.wait(30) in (0, 130)
    assert running.stderr is not None
    assert "Traceback" not in running.stderr.read()
    gone = RemoteSource.open(base.catalogue.folders, base.info("there")).find(["zorkmid"], top_k=2, deadline=5)
    assert (gone.items, "ConnectionRefusedError" in gone.trouble) == ([], True)
