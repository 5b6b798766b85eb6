"""Which cluster is joined, and what is said where there is none."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest

from rag_diffusion.config import Config, RayConfig
from rag_diffusion.engine.cluster import check_port, connect
from rag_diffusion.engine.work import open_engine
from rag_diffusion.errors import ConfigError, RemoteError
from rag_diffusion.orchestration.processes import run_shown


class Head(grpc.GenericRpcHandler):
    """Says that it is alive, whatever it is asked."""

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@contextmanager
def grpc_server(*handlers: grpc.GenericRpcHandler) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=handlers)
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return int(there.getsockname()[1])


def test_one_process_has_no_engine(default_config: Config) -> None:
    assert open_engine(default_config) is None


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:ray", "127.0.0.1:99999999"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(RemoteError, match=r"expected a Ray cluster at .*, got: .*; start one with `ray start --head"):
        connect(RayConfig(address=address))


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    port = free_port()
    with pytest.raises(RemoteError, match=rf"expected a Ray cluster at 127.0.0.1:{port}, got: .*refused"):
        connect(RayConfig(address=f"127.0.0.1:{port}"))


def test_an_address_where_something_keeps_silent_is_told_within_seconds() -> None:
    with socket.create_server(("", 0)) as silent:
        address, began = f"127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        with pytest.raises(RemoteError, match=f"a Ray cluster at {address}, got: nothing within 5 s from what listens"):
            connect(RayConfig(address=address))
    assert time.monotonic() - began < 10


def test_an_address_where_something_else_answers_is_told_at_once() -> None:
    with HTTPServer(("", 0), BaseHTTPRequestHandler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(RemoteError, match="got: an answer that is not Ray's"):
            connect(RayConfig(address=f"127.0.0.1:{other.server_port}"))
        other.shutdown()


def test_a_server_of_other_methods_is_told_at_once() -> None:
    """It speaks what Ray speaks: HTTP/2 and gRPC."""
    began = time.monotonic()
    with grpc_server() as address, pytest.raises(RemoteError, match="got: an answer that is not Ray's"):
        connect(RayConfig(address=address))
    assert time.monotonic() - began < 10


def test_the_address_of_the_environment_counts_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(RemoteError, match="refused"):
        connect(RayConfig())


def test_a_cluster_that_is_called_by_a_name_is_joined_once(ray_config: RayConfig) -> None:
    address = f"localhost:{ray_config.address.rpartition(':')[2]}"
    twice = f"c = RayConfig(address={address!r}); connect(c); connect(c)"
    lines = ["from rag_diffusion.config import RayConfig", "from rag_diffusion.engine.cluster import connect", twice]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_is_of_one_cluster(ray_config: RayConfig) -> None:
    connect(ray_config)
    told = "expected the cluster that this process has joined, "
    with grpc_server(Head()) as address, pytest.raises(ConfigError, match=rf"{told}.*, got {address}"):
        connect(RayConfig(address=address))


def test_a_port_of_the_head_that_is_taken_is_told_before_a_cluster_is_there(
    ray_config: RayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for config in (RayConfig(), ray_config):  # one that would begin here, and one whose head is here
            with pytest.raises(ConfigError, match=f"--port that are free, got 127.0.0.1:{port}: Address already"):
                check_port(config, "127.0.0.1", port)
    check_port(ray_config, "127.0.0.1", port)
    with pytest.raises(ConfigError, match="got 192.0.2.250:80: Cannot assign requested address"):
        check_port(RayConfig(), "192.0.2.250", 80)
    with pytest.raises(RemoteError, match="refused"):
        check_port(RayConfig(address=f"127.0.0.1:{port}"), "127.0.0.1", port)


def test_stages_that_dagster_starts_get_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    say = [sys.executable, "-c", "import os; print(os.environ['RAY_ADDRESS'])"]
    assert run_shown(say, tmp_path, {}) == (0, ["10.0.0.1:6379\n"])
