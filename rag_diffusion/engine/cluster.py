"""A Ray cluster: one that runs already, or one of this machine that begins and ends with this process."""

from __future__ import annotations

import os
import socket
from threading import Lock
from typing import TYPE_CHECKING

from rag_diffusion.config import RayConfig
from rag_diffusion.errors import ConfigError, RemoteError
from rag_diffusion.extras import need

if TYPE_CHECKING:
    from rag_diffusion.engine.workers import RayEngine

_SECONDS_TO_ANSWER = 5.0
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # a method of the head
_LOCAL = ("127.0.0.1", "::1", "localhost")
_engines: dict[RayConfig, RayEngine] = {}  # one at most
_engines_lock = Lock()
_joined_as: dict[str, str] = {}  # what a cluster was called by, for which Ray has an address of numbers
_STORE_BYTES = 2**28  # of the cluster of this machine: units and their results are small


def engine_of(config: RayConfig) -> RayEngine:
    """The workers that `config` says, on its cluster; the same ones for the same settings.

    Workers of other settings are ended: they would keep the room that these need.

    Raises:
        MissingExtraError: the extra `ray` is not installed.
        RemoteError: no cluster answers at the address.
    """
    with _engines_lock:
        if config not in _engines:
            connect(config)
            from rag_diffusion.engine.workers import RayEngine

            while _engines:
                _engines.popitem()[1].close()
            _engines[config] = RayEngine(config)
        return _engines[config]


def connect(config: RayConfig) -> None:
    """Join the cluster at `config.address`, or at `RAY_ADDRESS`; without either, start one of this machine.

    Nothing is reported to Ray's authors.

    Raises:
        MissingExtraError: the extra `ray` is not installed.
        RemoteError: no cluster answers there, or one of another version of Ray or Python.
        ConfigError: this process has joined another cluster before.
    """
    need("ray", "ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    address = _address(config)
    joined = ray.get_runtime_context().gcs_address if ray.is_initialized() else ""
    if joined and (not address or address in ("auto", joined, _joined_as.get(joined))):
        return
    quiet = {"logging_level": "warning", "log_to_driver": False, "configure_logging": False}
    if not address:
        os.environ.setdefault("RAY_worker_niceness", "0")  # the priority of this process, not 15 below
        ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        return
    _knock(address)
    if joined:
        raise ConfigError(f"ray.address: expected the cluster that this process has joined, {joined}, got {address}")
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        hint = "has it another version of Ray, or another token (RAY_AUTH_MODE, ~/.ray/auth_token)?"
        raise RemoteError(_no_cluster(address, f"{str(error).strip().splitlines()[0]} ({hint})")) from None
    _joined_as[ray.get_runtime_context().gcs_address] = address


def check_port(config: RayConfig, host: str, port: int) -> None:
    """Refuse a port that the cluster's head could not listen to, if the head is this machine; nothing is joined.

    Args:
        config: the cluster.
        host: address to listen at.
        port: of it.

    Raises:
        RemoteError: no cluster answers at the address.
        ConfigError: the port is taken, or the address is none of this machine.
    """
    address = _address(config)
    if address and not _knock(address):
        return
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ConfigError(f"expected --host and --port that are free, got {host}:{port}: {error.strerror}") from None


def _address(config: RayConfig) -> str:
    return config.address or os.environ.get("RAY_ADDRESS", "")


def _knock(address: str) -> bool:
    """Refuse an address where no Ray answers: Ray itself would try for a minute, or without an end.

    Returns:
        Whether it is one of this machine, as far as it can be told.
    """
    if address == "auto":
        return False
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise RemoteError(_no_cluster(address, "no HOST:PORT of a head node, as 10.0.0.1:6379"))
    host = host.strip("[]")
    if host in _LOCAL:  # Ray asks the machine's own address instead
        host = _own_address()
    try:
        with socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER) as connection:
            here = bool(connection.getsockname()[0] == connection.getpeername()[0])
    except (OSError, OverflowError) as error:
        raise RemoteError(_no_cluster(address, str(error))) from None
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        _call(address, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return here


def _own_address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())


def _call(address: str, target: str) -> None:
    """Refuse an `address` unless what listens at its `target` knows a method of Ray's head, whatever it answers."""
    import grpc

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=_SECONDS_TO_ANSWER)
        except grpc.RpcError as error:
            code, words = error.code(), str(error.details()).strip()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                words = f"nothing within {_SECONDS_TO_ANSWER:g} s from what listens there"
            elif code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
                words = f"an answer that is not Ray's ({words}; a cluster with RAY_USE_TLS needs it here, too)"
            else:  # as of one that wants a token: Ray's own attempt tells it
                return
            raise RemoteError(_no_cluster(address, words)) from None


def _no_cluster(address: str, got: str) -> str:
    return (
        f"ray.address: expected a Ray cluster at {address}, got: {got}; start one with `ray start --head --port 6379` "
        "there and `ray start --address HOST:6379` on this and every other machine, or set `engine: local`"
    )
