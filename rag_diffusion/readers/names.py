"""Sets of names too many for memory: kept sorted in a temporary file that nobody else sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Self

_CACHE_KIB = 4096  # pages that SQLite keeps in memory; the rest lies in a file without a name


class NameTable:
    """A set of strings whose memory does not grow with its size; any string, lone surrogates too.

    A context manager: leaving it, or the end of the process, removes the file.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._table.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()

    def add(self, name: str) -> bool:
        """Add a `name`; returns whether it is new."""
        return self._table.execute("INSERT OR IGNORE INTO names VALUES (?)", (_key(name),)).rowcount == 1

    def __contains__(self, name: str) -> bool:
        return self._table.execute("SELECT 1 FROM names WHERE name = ?", (_key(name),)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._table.execute("SELECT count(*) FROM names").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        """Names by code point."""
        for (key,) in self._table.execute("SELECT name FROM names ORDER BY name"):
            yield bytes(key).decode("utf-8", "surrogatepass")


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
