"""One request over HTTP that cannot run away: checked addresses, one deadline for all of it, and limits in bytes.

Every library's timeout is one of silence, so a server that drips a byte a second holds it for hours; here the sockets
are shut when the time is over, whatever they wait for. No proxy is used, no cookie kept, nothing unpacked.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import IO, Any
from urllib.parse import urljoin

from rag_diffusion.errors import RemoteError
from rag_diffusion.guarded_http.addresses import Target, check_url
from rag_diffusion.guarded_http.deadline import Deadline, Watched

MAX_REDIRECTS = 4
CHUNK = 2**16  # bytes
Write = Callable[[bytes], object]
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
JSON_TYPES = ("application/json",)
_REDIRECTS = {301: "GET", 302: "GET", 303: "GET", 307: "", 308: ""}  # status to the method that goes on; "" is the same


@dataclass(frozen=True, kw_only=True)
class DownloadLimits:
    """What one request may cost and where it may go.

    Attributes:
        max_bytes: longest body, whatever `Content-Length` says.
        allow_hosts: see `check_url`.
    """

    max_bytes: int
    allow_hosts: Collection[str] = field(default_factory=frozenset)


def get(url: str, deadline: Deadline, limits: DownloadLimits, *, kinds: tuple[str, ...] = IMAGE_TYPES) -> bytes:
    """Fetch what lies behind a URL; redirects are followed, each to an address that is checked as the first one was.

    Args:
        url: http or https.
        deadline: of all of it.
        limits: bytes, and where it may go.
        kinds: beginnings of the content types that are expected.

    Returns:
        The body.

    Raises:
        RemoteError: anything else happened; the message says what.
    """
    return _ask("GET", url, None, deadline, limits, kinds)


def get_file(
    url: str, file: IO[bytes], deadline: Deadline, limits: DownloadLimits, *, kinds: tuple[str, ...] = IMAGE_TYPES
) -> None:
    """Fetch what lies behind a URL into a file, as `get` does into memory.

    Args:
        url: http or https.
        file: is written to; what came before an error stays in it.
        deadline: of all of it.
        limits: bytes, and where it may go.
        kinds: beginnings of the content types that are expected.

    Raises:
        RemoteError: as `get`.
    """
    _ask("GET", url, None, deadline, limits, kinds, file.write)


def post_json(url: str, message: Mapping[str, Any], deadline: Deadline, limits: DownloadLimits) -> Any:
    """Send a JSON message.

    Args:
        url: http or https; redirects are followed as by `get`.
        message: of JSON values.
        deadline: of all of it.
        limits: bytes of the answer, and where it may go.

    Returns:
        The answer, parsed.

    Raises:
        RemoteError: as `get`; or it is not JSON.
    """
    return parse_json(_ask("POST", url, json.dumps(message).encode(), deadline, limits, JSON_TYPES), url)


def parse_json(content: bytes, url: str) -> Any:
    """Parse the body `content` that came from `url`, which the error names.

    Raises:
        RemoteError: it is no JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{url}: expected JSON, got {len(content)} bytes that are none: {error}") from None


def _ask(
    method: str,
    url: str,
    body: bytes | None,
    deadline: Deadline,
    limits: DownloadLimits,
    kinds: tuple[str, ...],
    write: Write | None = None,
) -> bytes:
    for _ in range(1 + MAX_REDIRECTS):
        if not deadline.left:
            raise RemoteError(_late(url, deadline))
        target = check_url(url, allow_hosts=limits.allow_hosts, seconds=deadline.left)
        answer = _once(method, target, url, body, deadline, limits, kinds, write)
        if isinstance(answer, bytes):
            return answer
        url, method = answer
        body = None if method == "GET" else body
    raise RemoteError(f"{url}: expected an answer after at most {MAX_REDIRECTS} redirects, got one more")


def _once(
    method: str,
    target: Target,
    url: str,
    body: bytes | None,
    deadline: Deadline,
    limits: DownloadLimits,
    kinds: tuple[str, ...],
    write: Write | None,
) -> bytes | tuple[str, str]:
    """The body, empty where it was written, or where a redirect leads and the method to go there with."""
    connection = (_Secure if target.scheme == "https" else _Plain)(target, deadline)
    headers = {
        "Host": target.netloc,
        "User-Agent": "rag-diffusion",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, target.path, body=body, headers=headers)
        response = connection.getresponse()
        if not deadline.left:  # what came may be half a head
            raise RemoteError(_late(url, deadline))
        if response.status in _REDIRECTS and response.headers.get("Location"):
            return urljoin(url, response.headers["Location"]), _REDIRECTS[response.status] or method
        _check_head(url, response, kinds)
        parts = list[bytes]()
        _body(url, response, deadline, limits.max_bytes, write or parts.append)
        return b"".join(parts)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not deadline.left:
            raise RemoteError(_late(url, deadline)) from None
        raise RemoteError(f"{url}: expected an answer, got {type(error).__name__}: {error}") from None
    finally:
        connection.close()
        if connection.watched is not None:
            deadline.let_go(connection.watched)


def _check_head(url: str, response: http.client.HTTPResponse, kinds: tuple[str, ...]) -> None:
    if response.status != 200:
        raise RemoteError(f"{url}: expected status 200, got {response.status} {response.reason}"[:300])
    kind = response.headers.get("Content-Type", "none").partition(";")[0].strip().lower()
    if not kind.startswith(kinds):
        raise RemoteError(f"{url}: expected a content type of {' or '.join(kinds)}, got {kind}"[:300])
    coding = response.headers.get("Content-Encoding", "identity").lower()
    if coding != "identity":
        raise RemoteError(
            f"{url}: expected a body as it is, got one packed with {coding}, which was not asked for"[:300]
        )


def _body(url: str, response: http.client.HTTPResponse, deadline: Deadline, most: int, write: Write) -> None:
    if response.length is not None and response.length > most:
        raise RemoteError(f"{url}: expected at most {most} bytes, got {response.length} announced")
    size = 0
    while part := response.read1(CHUNK):
        size += len(part)
        if size > most:
            raise RemoteError(f"{url}: expected at most {most} bytes, got more, and read no further")
        write(part)
        if not deadline.left:
            break
    if not deadline.left:
        raise RemoteError(_late(url, deadline))
    if response.length:
        raise RemoteError(f"{url}: expected {size + response.length} bytes as announced, got {size}")


def _late(url: str, deadline: Deadline) -> str:
    return f"{url}: expected a whole answer within {deadline.seconds:g} s, got none"


class _Plain(http.client.HTTPConnection):
    """A connection to the addresses that were checked; the name is not resolved again."""

    def __init__(self, target: Target, deadline: Deadline) -> None:
        super().__init__(target.host, target.port)
        self._target, self._deadline = target, deadline
        self.watched: Watched | None = None

    def connect(self) -> None:
        self.sock, self.watched = self._deadline.connect(self._target.addresses)


class _Secure(_Plain):
    """The same under TLS, with the certificate of the name that the URL has."""

    def connect(self) -> None:
        super().connect()
        self.sock = _trusted().wrap_socket(self.sock, server_hostname=self._target.host)


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()
