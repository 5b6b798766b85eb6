"""`make ui` with the real servers."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from rag_diffusion.orchestration.ui import HOST, free_port, runs_page
from tests.unit.guarded_http.wild import Behaviour, says, wild


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert free_port(port) > port


def experiments(*names: str) -> Behaviour:
    """What MLflow answers to a search, the last updated first."""
    found = [{"experiment_id": str(number), "name": name} for number, name in enumerate(names)]
    return says(json.dumps({"experiments": found}).encode(), "application/json")


@pytest.mark.parametrize(
    ("names", "number"),
    [
        (("rag-diffusion/sweep", "Default", "rag-diffusion/evaluation"), 2),
        (("rag-diffusion/generator", "Default"), 0),
    ],
)
def test_the_first_page_is_that_of_scores_where_there_are_any(names: tuple[str, ...], number: int) -> None:
    search = "/api/2.0/mlflow/experiments/search?max_results=100&order_by=last_update_time%20DESC"
    with wild({search: experiments(*names)}) as server:
        assert runs_page(server.url) == f"{server.url}/#/experiments/{number}/runs?viewStateShareKey=columns"


@pytest.mark.slow
def test_both_pages_answer_and_an_interrupt_ends_them(
    tmp_path: Path, project_root: Path, environment: dict[str, str]
) -> None:
    del environment["RAG_DIFFUSION_ROOT"]
    del environment["DAGSTER_HOME"]
    (tmp_path / "orchestration").symlink_to(project_root / "orchestration")
    (tmp_path / "pyproject.toml").symlink_to(project_root / "pyproject.toml")
    command = [sys.executable, "-m", "rag_diffusion.orchestration.ui"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        pages = {}
        for line in ui.stdout:
            if found := re.match(r"\s+(MLflow|Dagster)\s+(http://\S+)", line):
                pages[found[1]] = found[2]
            if "Ctrl-C" in line:
                break
        assert pages.keys() == {"MLflow", "Dagster"}
        assert pages["MLflow"].endswith("/runs?viewStateShareKey=columns")
        for page in pages.values():
            with urlopen(page, timeout=10) as answer:
                assert answer.status == 200
        ui.send_signal(signal.SIGINT)
        assert ui.wait(60) == 0

    for page in pages.values():
        host, port = page.removeprefix("http://").split("/")[0].split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5).close()
