from __future__ import annotations

import socket
import time

import pytest

from rag_diffusion.errors import RemoteError
from rag_diffusion.guarded_http.addresses import check_url, is_public, resolve


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::1", "2002:a00:1::", "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1", "2001:0:7f00:1::1",
        "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.88.99.1", "168.63.129.16", "::8.8.8.8", "::ffff:168.63.129.16",
        "2002:a83f:8110::1", "64:ff9b::c058:6301", "2606:4700::5efe:a00:1", "2606:4700::200:5efe:7f00:1", "3fff::1",
        "5f00::1", "2001:2::1", "100::1",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_its_network_and_groups_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost:80/x", "http://2130706433/", "http://0x7f.1/", "http://127.1/",
        "http://0/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "https://10.0.0.1./",
        "http://169.254.169.254/latest/meta-data",
    ],
)  # fmt: skip
def test_every_spelling_of_a_private_address_is_refused(url: str) -> None:
    with pytest.raises(RemoteError, match=r"expected a host with public addresses, got .*--allow-host"):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "got"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("ftp://8.8.8.8/x", "scheme 'ftp'"),
        ("//8.8.8.8/x", "scheme ''"),
        ("http:///x", "host None"),
        ("http://8.8.8.8:99999/", "Port out of range"),
        ("http://user:word@8.8.8.8/", "a user name or password"),
        ("http://8.8.8.8/a b", "spaces or control characters"),
        ("http://8.8.8.8/\r\nX: y", "spaces or control characters"),
        ("http://8.8.8.8/" + "a" * 5000, "5015 characters"),
        ("http://[::1/", "Invalid IPv6"),
    ],
)
def test_what_is_no_http_url_is_refused(url: str, got: str) -> None:
    with pytest.raises(RemoteError, match=got):
        check_url(url)


def test_a_named_host_may_be_private_and_a_named_port_opens_no_other() -> None:
    assert check_url("http://127.0.0.1:81/", allow_hosts=["127.0.0.1"]).addresses == (
        (socket.AF_INET, ("127.0.0.1", 81)),
    )
    assert check_url("http://[::1]:81/", allow_hosts=["[::1]"]).netloc == "[::1]:81"
    assert check_url("http://127.0.0.1:81/", allow_hosts=["127.0.0.1:81"]).port == 81
    with pytest.raises(RemoteError, match="public"):
        check_url("http://127.0.0.1:82/", allow_hosts=["127.0.0.1:81"])
    with pytest.raises(RemoteError, match="public"):
        check_url("http://127.0.0.2/", allow_hosts=["127.0.0.1"])


def test_a_public_address_keeps_path_query_and_default_port() -> None:
    found = check_url("https://8.8.8.8/a/é?q=ü&x=%20#part")

    assert (found.port, found.path, found.netloc) == (443, "/a/%C3%A9?q=%C3%BC&x=%20", "8.8.8.8")


def test_a_host_with_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("8.8.8.8", "192.168.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(RemoteError, match=r"images\.example at 192\.168\.0\.1"):
        check_url("http://images.example/a.png")


def test_a_resolver_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    start = time.monotonic()
    with pytest.raises(RemoteError, match=r"expected its address within 0\.2 s"):
        resolve("slow.example", 80, 0.2)

    assert time.monotonic() - start < 4


def test_an_unknown_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteError, match="expected a name that resolves"):
        resolve("no-such-name.invalid", 80, 20)
