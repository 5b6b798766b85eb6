"""Sources that lie elsewhere: addresses in the place of a path.

These are taken:

    hf://datasets/OWNER/NAME[@REVISION][?config=...&split=...]      a data set of Hugging Face, streamed
    https://HOST/shards/{00000..00041}.tar                          shards of WebDataset, one at a time
    s3://BUCKET/shards/*.tar, gs://, az://, hf://, memory://        the same by fsspec
    npm:@iconify/json[@VERSION], npm:@iconify-json/SET              all sets of Iconify, or one
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from rag_diffusion.errors import DataError
from rag_diffusion.readers.tar_stream import TAR_SUFFIXES

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|npm:@", re.IGNORECASE)
_NPM = re.compile(r"npm:(@iconify/json|@iconify-json/[a-z0-9][a-z0-9-]*)(?:@([0-9][0-9A-Za-z.+-]*))?")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000
HUB = "hf://datasets/"


def is_address(source: Path | str) -> bool:
    """Whether a `source` lies elsewhere, and is no path."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def form_of_address(address: str) -> tuple[str, str]:
    """What form lies at an `address`, and what tells so.

    Raises:
        DataError: none that is read from elsewhere.
    """
    if address.partition("?")[0].endswith(TAR_SUFFIXES):
        return "webdataset", "its name ends as a shard's"
    if address.startswith(HUB):
        return "datasets", "an address of Hugging Face"
    if address.startswith("npm:"):
        return "iconify", "a package of npm"
    raise DataError(
        f"{address}: expected {HUB}OWNER/NAME, npm:@iconify/json, or shards that end with {', '.join(TAR_SUFFIXES)}, "
        "got another address; "
        "download it, and name the file or folder"
    )


def expanded(address: str) -> list[str]:
    """The addresses that `address`, one with ranges as `{000..011}`, stands for, in their order.

    Raises:
        DataError: a range is empty, or there are too many.
    """
    found = [address]
    while match := _RANGE.search(found[0]):
        low, high = int(match[1]), int(match[2])
        if low > high or len(found) * (high - low + 1) > _MOST_SHARDS:
            raise DataError(f"{address}: expected a range of at most {_MOST_SHARDS} shards, got {match[0]}")
        numbers = [str(number).zfill(len(match[1])) for number in range(low, high + 1)]
        found = [_RANGE.sub(number, one, count=1) for one in found for number in numbers]
    return found


def npm_address(address: str) -> tuple[str, str]:
    """Package and version of an `address` `npm:@iconify/json[@VERSION]` or `npm:@iconify-json/SET[@VERSION]`.

    Raises:
        DataError: it is none.
    """
    match = _NPM.fullmatch(address)
    if match is None:
        raise DataError(
            f"{address}: expected npm:@iconify/json or npm:@iconify-json/SET, perhaps with @VERSION, got another"
        )
    return match[1], match[2] or ""


def hub_address(address: str) -> tuple[str, str | None, dict[str, str]]:
    """Repository, revision and options of `hf://datasets/OWNER/NAME[@REVISION][?config=...&split=...]`.

    Args:
        address: that.

    Raises:
        DataError: it is none.
    """
    parts = urlsplit(address)
    name, _, revision = address.partition("?")[0].removeprefix(HUB).strip("/").partition("@")
    options = dict(parse_qsl(parts.query))
    if not address.startswith(HUB) or not name or name.count("/") > 1 or set(options) - {"config", "split"}:
        raise DataError(f"{address}: expected {HUB}OWNER/NAME[@REVISION][?config=NAME&split=NAME], got another address")
    return name, revision or None, options
