"""API keys: who may write, and by choice who may read, how often each may come, and how they are kept.

A file of keys has a line for each: a name, a key of at least 16 characters, and `read` or `write` (the default, which
may read as well). Lines that begin with `#` are passed over. Only a digest of a key is held in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from rag_diffusion.clip_protocol import KNN, METADATA
from rag_diffusion.errors import ConfigError
from rag_diffusion.serving.request_guard import refusal

DRAWING = ("/draw", "/v1/images/generations", "/v1/images/edits", "/v1/images/variations")
SHARDS = "/shards"  # of `on_ray`
ASKING = (f"/{KNN}", f"/{METADATA}", SHARDS, *DRAWING)  # POST and yet write nothing; whatever else is no GET writes
OPEN = ("/health", "/ready")  # for whoever watches the server
NAMED = "/v1/images/files/"  # below it names that nobody can guess, and only who drew a picture was told
MIN_KEY = 16  # characters
RATE = 600  # requests a minute of one key
MAX_KEYS = 1000
_READ, _WRITE = "read", "write"


@dataclass
class Key:
    """One key.

    Attributes:
        name: for the log.
        digest: sha256 of the key.
        writes: whether it may write.
        left, seen: requests that it may still make, and when that was so.
    """

    name: str
    digest: bytes
    writes: bool
    left: float = 0.0
    seen: float = field(default=float("-inf"))

    def take(self, rate: int, now: float) -> float:
        """Count a request.

        Args:
            rate: requests a minute that it may make; so many at once after a pause.
            now: seconds of a clock that never goes back.

        Returns:
            Seconds until it may come again; 0 where it may now.
        """
        self.left = min(float(rate), self.left + (now - self.seen) * rate / 60)
        self.seen = now
        if self.left < 1:
            return (1 - self.left) * 60 / rate
        self.left -= 1
        return 0.0


def read_keys(path: Path) -> list[Key]:
    """Read the file of keys at `path`.

    Raises:
        ConfigError: it is missing, others can read it, or a line is no key.
    """
    hint = f"a line is `NAME KEY [{_READ}|{_WRITE}]`, a key is e.g. {secrets.token_urlsafe(24)}"
    try:
        mode, lines = path.stat().st_mode, path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a file of API keys, got {error}; {hint}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: expected a file that its owner alone may read; run `chmod 600 {path}`")
    words = [(number, line.split()) for number, line in enumerate(lines, 1) if line.split() and line[0] != "#"]
    keys = [_key(path, number, parts, hint) for number, parts in words]
    if not 1 <= len(keys) <= MAX_KEYS or len({key.digest for key in keys}) != len(keys):
        raise ConfigError(f"{path}: expected 1 to {MAX_KEYS} different keys, got {len(keys)} lines; {hint}")
    return keys


def _key(path: Path, number: int, parts: list[str], hint: str) -> Key:
    may = parts[2] if len(parts) == 3 else _WRITE
    if not 2 <= len(parts) <= 3 or len(parts[1]) < MIN_KEY or may not in (_READ, _WRITE):
        got = f"{len(parts)} words"  # the key itself stays out of messages
        raise ConfigError(
            f"{path}:{number}: expected a name, a key of at least {MIN_KEY} characters and {_READ} or {_WRITE}, got "
            f"{got}; {hint}"
        )
    return Key(parts[0], hashlib.sha256(parts[1].encode()).digest(), may == _WRITE)


class Keys:
    """ASGI middleware: requests that need a key and have none are refused.

    Args:
        app: what is called.
        keys: those that there are.
        to_read: whether reading needs one as well.
        rate: requests a minute of one key.
        apart: path below which another application asks for keys by itself; empty for none.
    """

    def __init__(
        self, app: ASGIApp, keys: Collection[Key], to_read: bool = False, rate: int = RATE, apart: str = ""
    ) -> None:
        self._app, self._keys, self._to_read, self._rate = app, tuple(keys), to_read, rate
        self._apart = apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        apart = bool(self._apart) and f"{scope.get('path')}/".startswith(f"{self._apart}/")
        if scope["type"] == "http" and not apart:
            answer = self._refused(scope)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        given, writing = _given(scope), is_writing(scope["method"], scope["path"])
        if not given and not needs_key(scope["method"], scope["path"], to_read=self._to_read):
            return None
        key = key_of(self._keys, given)
        if key is None:
            got = "one that is not known" if given else "none"
            message = f"expected an API key in the header `Authorization: Bearer KEY`, got {got}"
            return refusal(401, message, WWW_Authenticate="Bearer")
        if writing and not key.writes:
            return refusal(403, "expected a key that may write, got one that may only read")
        wait = key.take(self._rate, time.monotonic())
        if wait:
            message = f"expected at most {self._rate} requests a minute of one key, got more; come again"
            return refusal(429, message, Retry_After=str(int(wait) + 1))
        return None


def is_writing(method: str, path: str) -> bool:
    """Whether a request of an HTTP `method`, in capitals, at a `path` may change something."""
    return method not in ("GET", "HEAD", "OPTIONS") and path not in ASKING


def needs_key(method: str, path: str, *, to_read: bool) -> bool:
    """Whether a request needs a key where there are keys.

    Args:
        method: of HTTP, in capitals.
        path: of the request.
        to_read: whether reading needs one as well.
    """
    return path not in OPEN and not path.startswith(NAMED) and (to_read or is_writing(method, path))


def key_of(keys: Collection[Key], given: str) -> Key | None:
    """The one of `keys` that was `given`; all are compared, each in the same time whatever it is."""
    digest, match = hashlib.sha256(given.encode("utf-8")).digest(), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            match = key
    return match


def _given(scope: Scope) -> str:
    """The key of a request, empty where it has none."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1").strip()
