from __future__ import annotations

import gzip
import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rag_diffusion.errors import RemoteError
from rag_diffusion.guarded_http import download
from rag_diffusion.guarded_http.deadline import Deadline
from rag_diffusion.guarded_http.download import DownloadLimits, get, post_json
from tests.unit.guarded_http.wild import Wild, png, raw, redirects, says, says_json, wild

LOCAL = DownloadLimits(max_bytes=10_000, allow_hosts=["127.0.0.1"])
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


@pytest.fixture
def server() -> Iterator[Wild]:
    with wild() as running:
        yield running


def fetched(url: str, seconds: float = 5.0, limits: DownloadLimits = LOCAL) -> bytes:
    with Deadline(seconds) as deadline:
        return get(url, deadline, limits)


def test_an_image_comes_as_it_is(server: Wild) -> None:
    server.paths["/a.png?x=1"] = says(png())

    assert fetched(f"{server.url}/a.png?x=1") == png()


def test_a_chunked_body_comes_whole(server: Wild) -> None:
    server.paths["/"] = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    assert fetched(server.url) == b"abcde"


def test_nothing_is_asked_of_a_private_address(server: Wild) -> None:
    with pytest.raises(RemoteError, match=r"public addresses, got 127\.0\.0\.1"):
        fetched(f"{server.url}/a.png", limits=DownloadLimits(max_bytes=100))

    assert server.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused_before_it_is_asked(status: int) -> None:
    with wild({"/secret": says(b"secret")}) as inner, wild() as outer:
        outer.paths["/"] = redirects(f"http://127.0.0.1:{inner.port}/secret", status)
        with pytest.raises(RemoteError, match="public addresses"):
            fetched(outer.url, limits=DownloadLimits(max_bytes=100, allow_hosts=[f"127.0.0.1:{outer.port}"]))

        assert len(outer.asked) == 1
        assert inner.asked == []


@pytest.mark.parametrize("target", ["http://10.0.0.1/x", "http://[::1]/x", "file:///etc/passwd", "gopher://8.8.8.8/"])
def test_a_redirect_out_of_the_open_web_is_refused(server: Wild, target: str) -> None:
    server.paths["/"] = redirects(target)
    with pytest.raises(RemoteError, match=r"public addresses|http or https"):
        fetched(server.url)


def test_a_good_redirect_is_followed_also_a_relative_one(server: Wild) -> None:
    server.paths |= {"/a/": redirects("../b"), "/b": redirects(f"{server.url}/c", 307), "/c": says(png())}

    assert fetched(f"{server.url}/a/") == png()


def test_a_circle_of_redirects_ends(server: Wild) -> None:
    server.paths["/"] = redirects("/")
    with pytest.raises(RemoteError, match="after at most 4 redirects"):
        fetched(f"{server.url}/")

    assert len(server.asked) == 5


def test_the_address_that_was_checked_is_the_one_connected_to(server: Wild, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a second look at the name would give another machine."""
    asked = []

    def rebinding(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.99"
        return [(socket.AF_INET, 1, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    server.paths["/"] = says(png())

    assert fetched(
        f"http://pictures.example:{server.port}/",
        limits=DownloadLimits(max_bytes=999, allow_hosts=["pictures.example"]),
    )
    assert asked == ["pictures.example"]


@pytest.mark.parametrize(
    "kind", ["text/html; charset=utf-8", "text/plain", "application/json", "application/xhtml+xml", "none", ""]
)
def test_what_says_that_it_is_no_image_is_not_read(server: Wild, kind: str) -> None:
    server.paths["/"] = says(b"<html>", kind)
    with pytest.raises(RemoteError, match="expected a content type of image/"):
        fetched(server.url)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 404, 429, 500, 503])
def test_any_status_but_200_is_trouble(server: Wild, status: int) -> None:
    server.paths["/"] = says(b"" if status in (204, 304) else b"x", status=status)
    with pytest.raises(RemoteError, match=f"expected status 200, got {status}"):
        fetched(server.url)


def test_an_announced_size_beyond_the_limit_is_not_read(server: Wild) -> None:
    server.paths["/"] = says(b"abc", Content_Length="10001")
    with pytest.raises(RemoteError, match="expected at most 10000 bytes, got 10001 announced"):
        fetched(server.url)


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
    ],
)
def test_a_body_without_an_end_is_cut_at_the_limit(server: Wild, head: bytes) -> None:
    server.paths["/"] = raw(head, *[b"x" * 4000] * 50)
    with pytest.raises(RemoteError, match="expected at most 10000 bytes, got more"):
        fetched(server.url)


def test_chunks_without_an_end_are_cut_at_the_limit(server: Wild) -> None:
    server.paths["/"] = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"fa0\r\n" + b"x" * 4000 + b"\r\n"] * 50)
    with pytest.raises(RemoteError, match="expected at most 10000 bytes, got more"):
        fetched(server.url)


def test_a_server_that_announces_more_than_it_sends_gives_nothing(server: Wild) -> None:
    server.paths["/"] = raw(HEAD + b"Content-Length: 500\r\n\r\nabc")
    with pytest.raises(RemoteError, match="expected 500 bytes as announced, got 3"):
        fetched(server.url)


def test_a_server_that_announces_less_is_taken_at_its_word(server: Wild) -> None:
    server.paths["/"] = raw(HEAD + b"Content-Length: 3\r\n\r\nabcdefgh")

    assert fetched(server.url) == b"abc"


def test_a_packed_body_is_refused(server: Wild) -> None:
    server.paths["/"] = says(gzip.compress(b"0" * 10**6), Content_Encoding="gzip")
    with pytest.raises(RemoteError, match="packed with gzip"):
        fetched(server.url)


@pytest.mark.parametrize(
    "parts",
    [
        [],  # nothing at all
        [b"HTTP/1.1 200 OK\r\nX-Drip: ", *[b"a"] * 900],  # one byte of a header at a time
        [HEAD + b"Content-Length: 999\r\n\r\n", *[b"x"] * 900],  # one byte at a time
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 900],
        [HEAD + b"\r\n", *[b"x"] * 900],
    ],
    ids=["silent", "headers", "body", "chunks", "endless"],
)
def test_a_server_that_hangs_or_drips_is_cut_off_at_the_deadline(server: Wild, parts: list[bytes]) -> None:
    server.paths["/"] = raw(b"" if not parts else parts[0], *parts[1:], b"", pause=0.05, stop=server.stop)
    if not parts:
        server.paths["/"] = lambda handler, body: server.stop.wait(20) and None
    start = time.monotonic()
    with pytest.raises(RemoteError, match=r"expected a whole answer within 0\.4 s, got none"):
        fetched(server.url, seconds=0.4)

    assert 0.3 < time.monotonic() - start < 10


def test_a_handshake_that_never_ends_is_cut_off_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        start = time.monotonic()
        with pytest.raises(RemoteError, match=r"within 0\.3 s"):
            fetched(f"https://127.0.0.1:{listening.getsockname()[1]}/", seconds=0.3)

        assert time.monotonic() - start < 10


def test_a_server_without_a_certificate_is_not_trusted(server: Wild) -> None:
    with pytest.raises(RemoteError, match="expected an answer, got SSL"):
        fetched(server.url.replace("http", "https"))


def test_a_port_where_nobody_listens_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RemoteError, match="ConnectionRefusedError"):
        fetched(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("start", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00" * 500, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500])
def test_what_does_not_speak_http_is_trouble(server: Wild, start: bytes) -> None:
    server.paths["/"] = raw(start)
    with pytest.raises(RemoteError, match="expected an answer, got"):
        fetched(server.url)


def test_no_socket_outlives_its_deadline(server: Wild) -> None:
    server.paths["/"] = says(png())
    deadline = Deadline(5)
    with deadline:
        get(server.url, deadline, LOCAL)
        assert deadline._open == {}
        kept, _ = deadline.connect(((socket.AF_INET, ("127.0.0.1", server.port)),))
        assert len(deadline._open) == 1

    assert deadline._open == {}
    assert kept.recv(1) == b""
    kept.close()


def test_many_requests_leave_no_descriptor_behind(server: Wild) -> None:
    server.paths |= {"/a": says(png()), "/b": says(b"", "text/html")}
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("only Linux tells its descriptors so")
    before = len(list(folder.iterdir()))
    with Deadline(20) as deadline:
        for _ in range(100):
            get(f"{server.url}/a", deadline, LOCAL)
            with pytest.raises(RemoteError):
                get(f"{server.url}/b", deadline, LOCAL)
        assert len(list(folder.iterdir())) < before + 20


def test_a_message_is_posted_as_json(server: Wild) -> None:
    server.paths["/knn"] = says_json([1])
    with Deadline(5) as deadline:
        assert post_json(f"{server.url}/knn", {"text": "é"}, deadline, LOCAL) == [1]

    assert [(method, json.loads(body)) for method, _, body in server.asked] == [("POST", {"text": "é"})]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5000, b"\xff\xfe", b"1" * 5000])
def test_what_is_no_json_is_trouble(server: Wild, body: bytes) -> None:
    server.paths["/"] = says(body, "application/json")
    with pytest.raises(RemoteError, match=f"expected JSON, got {len(body)} bytes"), Deadline(5) as deadline:
        post_json(server.url, {}, deadline, LOCAL)


def test_html_instead_of_json_is_trouble(server: Wild) -> None:
    server.paths["/"] = says(b"<html>moved</html>", "text/html")
    with pytest.raises(RemoteError, match="application/json, got text/html"), Deadline(5) as deadline:
        post_json(server.url, {}, deadline, LOCAL)


def certificate(name: str, folder: Path) -> Path:
    """A certificate that its owner signed, with its key, for one name."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(own, own, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(secret + signed.public_bytes(pem))
    return path


def test_under_tls_the_name_is_checked_against_the_certificate_and_the_address_is_the_checked_one(
    server: Wild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate("pictures.example", tmp_path)
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(pem)
    server.wrap(there)
    server.paths["/a.png"] = says(png())
    monkeypatch.setattr(download, "_trusted", lambda: ssl.create_default_context(cafile=str(pem)))
    local = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: local)
    limits = DownloadLimits(max_bytes=999, allow_hosts=["pictures.example", "other.example"])

    assert fetched(f"https://pictures.example:{server.port}/a.png", limits=limits) == png()
    with pytest.raises(RemoteError, match=r"not valid for 'other\.example'"):
        fetched(f"https://other.example:{server.port}/a.png", limits=limits)
