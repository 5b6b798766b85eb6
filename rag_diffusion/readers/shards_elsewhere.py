"""Shards of WebDataset that lie elsewhere, read one at a time; nothing of them stays on this machine.

Over HTTP each shard is fetched by `guarded_http`, which asks public addresses alone and those hosts that the user
names; from a store (S3 and others) it is streamed by fsspec.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from rag_diffusion.errors import DataError, RemoteError
from rag_diffusion.guarded_http.deadline import Deadline
from rag_diffusion.guarded_http.download import DownloadLimits, get_file
from rag_diffusion.readers.addresses import expanded
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.tar_stream import TAR_SUFFIXES
from rag_diffusion.readers.webdataset import read_shard

STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "oss", "hf", "memory")
MAX_SHARD = 8 << 30  # bytes, over HTTP
_SECONDS = 3600.0  # a shard, over HTTP
_KINDS = ("application/", "binary/")


class ShardsElsewhere:
    """Samples of shards at an address; items are named `<shard>/<file>`.

    Args:
        address: of one shard or of several, as `https://host/{000..011}.tar` or `s3://bucket/folder/*.tar`.
        allow_hosts: hosts over HTTP that may have a private address, HOST or HOST:PORT.
        scratch: folder for the shard that is read, over HTTP; the system's own where it is None.

    Raises:
        DataError: a scheme that is not read, a package that is missing, or no such shard.
    """

    def __init__(self, address: str, *, allow_hosts: Collection[str] = (), scratch: Path | None = None) -> None:
        self._scheme, self._allow_hosts, self._scratch = urlsplit(address).scheme, tuple(allow_hosts), scratch
        if self._scheme not in ("http", "https", *STORES) or "::" in address:
            known = ", ".join(("http", "https", *STORES))
            raise DataError(f"{address}: expected an address of {known}, got {self._scheme}")
        self._shards = expanded(address) if self._scheme.startswith("http") else _listed(address)

    def __iter__(self) -> Iterator[Item | Rejection]:
        for shard in self._shards:
            name = Path(urlsplit(shard).path).name
            try:
                with self._opened(shard) as file:
                    yield from read_shard(file, name)
            except (RemoteError, OSError) as error:
                yield Rejection(what=name, reason=f"unreadable shard: {' '.join(str(error).split())[:200]}")

    def _opened(self, shard: str) -> IO[bytes]:
        if not self._scheme.startswith("http"):
            import fsspec

            return cast("IO[bytes]", fsspec.open(shard, "rb").open())
        file = tempfile.TemporaryFile(prefix="shard-", dir=self._scratch)  # noqa: SIM115 (the caller closes it)
        try:
            limits = DownloadLimits(max_bytes=MAX_SHARD, allow_hosts=self._allow_hosts)
            with Deadline(_SECONDS) as deadline:
                get_file(shard, file, deadline, limits, kinds=_KINDS)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast("IO[bytes]", file)


def _listed(address: str) -> list[str]:
    """Shards of a store; ranges are taken as they stand, stars are looked for."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise DataError(f"{address}: expected the package fsspec, found none; pip install fsspec") from None
    found: list[str] = []
    for one in expanded(address):
        try:
            store, path = cast("tuple[Any, str]", url_to_fs(one))
        except (ImportError, ValueError) as error:  # s3fs, gcsfs ... bring their own stores
            raise DataError(f"{address}: expected a store that fsspec knows, got: {error}") from None
        try:
            if "*" in path or "?" in path:
                found += [
                    store.unstrip_protocol(name) for name in sorted(store.glob(path)) if name.endswith(TAR_SUFFIXES)
                ]
            elif store.isfile(path):
                found.append(one)
        except OSError as error:
            raise DataError(f"{address}: expected a store that answers, got: {error}") from None
    if not found:
        raise DataError(f"{address}: expected tar shards, got none; name another address")
    return found
