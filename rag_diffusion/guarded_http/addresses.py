"""Where a request over the network may go: names are resolved here, and what was checked is what is connected to.

An address that comes from somebody else (a remote's answer, a redirect, an `image_url` query) must not reach this
machine or its local network: only public addresses are asked, except at hosts that the user names.

Source: the special-purpose address registries of RFC 6890 as Python's `ipaddress` knows them; RFC 4291 (IPv4-mapped),
RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP) and RFC 6052 (64:ff9b::/96), which all carry an IPv4 address
inside an IPv6 one. What `ipaddress` takes for public and is not: protocol assignments (RFC 6890), relays of 6to4 (RFC
7526), the host of a machine in Azure's cloud, IPv4-compatible addresses (RFC 4291), and what came after its registry.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, quote, urlsplit

from rag_diffusion.errors import RemoteError

PORTS = {"http": 80, "https": 443}
MAX_URL = 4096  # characters
_TRANSLATED = IPv6Network("64:ff9b::/96")
_ISATAP = (0x5EFE, 0x02005EFE)  # before the IPv4 address in the lower half of an IPv6 one
_INNER4 = tuple(IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"))
_INNER6 = tuple(
    IPv6Network(net) for net in ("::/96", "64:ff9b:1::/48", "100::/64", "3fff::/20", "5f00::/16", "2001::/23")
)
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # left as they are; all else that is not ASCII becomes %..

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL that may be asked, and the addresses to connect to.

    Attributes:
        scheme: `http` or `https`.
        host, port: as the URL names them.
        path: with the query, never empty.
        addresses: family and socket address of each, in the resolver's order; all of them were checked.
    """

    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[tuple[int, SocketAddress], ...]

    @property
    def netloc(self) -> str:
        """For the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str, *, allow_hosts: Collection[str] = (), seconds: float = 5.0) -> Target:
    """Resolve a URL's host and check every address of it.

    Args:
        url: http or https.
        allow_hosts: names or addresses as URLs spell them, `host` or `host:port`, that may lie anywhere.
        seconds: longest that the resolver may take.

    Raises:
        RemoteError: it is no such URL, the name is unknown or slow, or an address of it is not public.
    """
    parts, host, port = _parse(url)
    addresses = resolve(host, port, seconds)
    if not {host, f"{host}:{port}"} & {name.lower().strip("[]") for name in allow_hosts}:
        for _, address in addresses:
            if not is_public(address[0]):
                raise RemoteError(
                    f"{_short(url)}: expected a host with public addresses, got {host} at {address[0]}; "
                    f"if that machine is to be asked, allow it: --allow-host {host}"
                )
    path = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, port=port, path=path, addresses=addresses)


def is_public(address: str) -> bool:
    """Whether an IP `address` is one of the open internet, and not of this machine, its network, or many machines.

    An IPv4 address inside an IPv6 one is judged by itself; a scope after `%` says nothing.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        carried = _inside(ip)
        if carried:
            return all(is_public(str(ipv4)) for ipv4 in carried)
    local = isinstance(ip, IPv6Address) and ip.is_site_local  # fec0::/10, given up by RFC 3879 yet still in use
    if any(ip in net for net in (_INNER6 if isinstance(ip, IPv6Address) else _INNER4)):
        return False
    return ip.is_global and not (local or ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def resolve(host: str, port: int, seconds: float) -> tuple[tuple[int, SocketAddress], ...]:
    """Look up a host's addresses.

    Args:
        host: a name or an address.
        port: that is to be connected to.
        seconds: longest that the resolver may take.

    Returns:
        Family and socket address of each, in the resolver's order, none twice.

    Raises:
        RemoteError: it has none, or they did not come in time.
    """
    addresses: list[tuple[int, SocketAddress]] = []
    failure: list[str] = []

    def ask() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                addresses.append((family, address))  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:
            failure.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)  # getaddrinfo knows no timeout: a slow one is left behind
    asking.start()
    asking.join(max(0.0, seconds))
    if asking.is_alive():
        raise RemoteError(
            f"{host}: expected its address within {max(0.0, seconds):.1f} s, got none; is the name right?"
        )
    if not addresses:
        raise RemoteError(f"{host}: expected a name that resolves, got {failure[0] if failure else 'no address'}")
    return tuple(dict.fromkeys(addresses))


def _parse(url: str) -> tuple[SplitResult, str, int]:
    what = f"{_short(url)}: expected an http or https URL of at most {MAX_URL} characters"
    if len(url) > MAX_URL or any(char <= " " or char == "\x7f" for char in url):
        raise RemoteError(f"{what}, got {len(url)} characters, or spaces or control characters in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RemoteError(f"{what}, got {error}") from None
    if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
        got = (
            "a user name or password in it"
            if "@" in parts.netloc
            else f"scheme {parts.scheme!r} and host {parts.hostname!r}"
        )
        raise RemoteError(f"{what}, got {got}")
    return parts, parts.hostname.rstrip("."), PORTS[parts.scheme] if port is None else port


def _inside(ip: IPv6Address) -> list[IPv4Address]:
    """IPv4 addresses that an IPv6 address carries."""
    if ip.ipv4_mapped:
        return [ip.ipv4_mapped]
    if ip.sixtofour:
        return [ip.sixtofour]
    if ip.teredo:
        return list(ip.teredo)
    if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP:
        return [IPv4Address(int(ip) & 0xFFFFFFFF)]
    return [IPv4Address(int(ip) & 0xFFFFFFFF)] if ip in _TRANSLATED else []


def _short(url: str) -> str:
    clean = "".join(char if char.isprintable() else "?" for char in url)
    return clean if len(clean) <= 100 else f"{clean[:97]}..."
