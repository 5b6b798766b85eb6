"""Parquet: one row a pair, with the image's bytes, a Hugging Face image column, or a path beside the file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError
from rag_diffusion.readers.captioned import NO_CAPTION
from rag_diffusion.readers.fields import CAPTIONS, KNOWN, NAMES, caption_of, make_item, no_text, unsafe_path
from rag_diffusion.readers.imagefolder import read_image
from rag_diffusion.readers.images import MAX_BYTES
from rag_diffusion.readers.records import Item, Rejection

IMAGES = ("image", "jpg", "png", "webp", "img", "image_bytes", "bytes")
PATHS = ("file_name", "image_path", "path", "filename", "image_file")
_DOWNLOAD = ("status", "error_message")  # of img2dataset
KEYS = ("pair_id", "id", "key", "__key__", "uid")
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)
_ROWS = 16  # decoded at a time; one where a row group is so large that a few of its cells could fill the memory
_LARGE = 64 << 20  # bytes of a row group when it is unpacked
_MAX_RATIO = 200  # of a large row group's bytes when it is unpacked to those in the file
_STREAMED = {"buffer_size": 1 << 20, "pre_buffer": False}  # else a whole column of a row group is read at once


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Columns of one table: of images, of names, all that are read, and the names of classes kept as numbers."""

    image: str
    key: str
    read: frozenset[str]
    labels: Mapping[str, Sequence[str]]


class TableReader:
    """Rows of one parquet file, or of all in a folder; items are named `<file>#<row>`, or by their key.

    Args:
        path: a parquet file, or a folder that holds some, also in folders below.
        image_column: name of the column of images or paths; found by its usual names where it is empty.
        caption_column: name of the column of captions, likewise.
        key_column: name of a column that names the rows, likewise.

    Raises:
        DataError: no parquet file there.
    """

    suffix, what = ".parquet", "parquet"

    def __init__(self, path: Path, *, image_column: str = "", caption_column: str = "", key_column: str = "") -> None:
        self._root = path if path.is_dir() else path.parent
        pattern = f"*{self.suffix}"
        self._files = sorted(file for file in path.rglob(pattern) if file.is_file()) if path.is_dir() else [path]
        if not self._files or not self._files[0].is_file():
            raise DataError(f"{path}: expected {self.what} files ({pattern}), got none; name another file or folder")
        self._images = (image_column,) if image_column else (*IMAGES, *PATHS)
        self._captions = (caption_column,) if caption_column else CAPTIONS
        self._keys = (key_column,) if key_column else KEYS

    def __iter__(self) -> Iterator[Item | Rejection]:
        for file in self._files:
            name = file.relative_to(self._root).as_posix()
            try:
                yield from self._read_file(file, name)
            except DataError as error:
                yield Rejection(what=name, reason=str(error))
            except _DAMAGE as error:
                yield Rejection(what=name, reason=f"corrupt {self.what} file: {_one_line(error)}")

    def _read_file(self, file: Path, name: str) -> Iterator[Item | Rejection]:
        with pq.ParquetFile(file, page_checksum_verification=True, **_STREAMED) as table:
            yield from self._rows(table, file.parent, name)

    def _columns(self, schema: pa.Schema) -> _Columns:
        """Which columns of a table are read.

        Raises:
            DataError: it has none of images, or of captions.
        """
        image = _column(schema, self._images, "images")
        captions = [column for column in self._captions if column in schema.names]
        if not captions:
            raise DataError(f"no column of captions: expected one of {', '.join(self._captions)}, got {schema.names}")
        key = next((column for column in self._keys if column in schema.names and column != image), "")
        read = {image, key, *captions, *({*KNOWN, *_DOWNLOAD} & set(schema.names))} - {""}
        return _Columns(image=image, key=key, read=frozenset(read), labels=_label_names(schema))

    def _rows(self, table: pq.ParquetFile, folder: Path, name: str) -> Iterator[Item | Rejection]:
        columns = self._columns(table.schema_arrow)
        done = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            first = done
            try:
                at_once = _rows_at_once(table.metadata.row_group(group), columns.read)
                for batch in table.iter_batches(
                    at_once, row_groups=[group], columns=sorted(columns.read), use_threads=False
                ):
                    for row in rows_of(batch):
                        yield self._item_or_not(row, f"{name}#{first:08d}", columns, folder)
                        first += 1
            except (DataError, *_DAMAGE) as error:
                reason = str(error) if isinstance(error, DataError) else f"corrupt parquet file: {_one_line(error)}"
                yield Rejection(what=name, reason=f"{reason}; {done + rows - first} rows from {first} on are lost")
            done += rows

    def _item_or_not(
        self, row: Mapping[str, Any] | None, name: str, columns: _Columns, folder: Path
    ) -> Item | Rejection:
        if row is None:
            reason = "unreadable row: a text that is not UTF-8, or a value beyond its range"
            return Rejection(what=name, reason=reason)
        return self._item(row, name, columns, folder)

    def _item(self, row: Mapping[str, Any], name: str, columns: _Columns, folder: Path) -> Item | Rejection:
        caption = caption_of(row, self._captions)
        if columns.key and row[columns.key] is not None:
            name = str(row[columns.key])
        if not caption:
            return Rejection(what=name, reason=no_text(row, self._captions) or f"{NO_CAPTION}: the cell is empty")
        if row.get("status", "success") not in ("success", None) and not row[columns.image]:
            reason = row.get("error_message") or f"status {row['status']}"
            return Rejection(what=name, reason=f"not downloaded: {reason}"[:200])
        try:
            content = _content(row[columns.image], folder)
        except DataError as error:
            return Rejection(what=name, reason=str(error))
        fields = dict(row)
        for column, names in columns.labels.items():
            if isinstance(fields.get(column), int) and 0 <= fields[column] < len(names):
                fields[column] = names[fields[column]]
        return make_item(name, content, caption, fields)


def _rows_at_once(group: pq.RowGroupMetaData, columns: Collection[str]) -> int:
    """How many rows of a row group may be decoded together.

    Raises:
        DataError: it unpacks to far more than it takes in the file, as a dictionary of one huge image does.
    """
    chunks = [group.column(number) for number in range(group.num_columns)]
    read = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
    packed = sum(chunk.total_compressed_size for chunk in read)
    unpacked = sum(chunk.total_uncompressed_size for chunk in read)
    if unpacked > max(_LARGE, _MAX_RATIO * packed):
        raise DataError(f"decompression bomb: {packed} bytes that unpack to {unpacked}")
    return _ROWS if unpacked <= _LARGE else 1


def rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """Rows of a `batch` as Python has them; None for one that it cannot have, e.g. text that is no UTF-8."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = []
    yield from rows
    if not rows:
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError):
                yield None


def _column(schema: pa.Schema, names: Sequence[str], what: str) -> str:
    """The first column of the names that can hold images."""
    for name in names:
        if name in schema.names:
            kind = schema.field(name).type
            if any(test(kind) for test in (_is_binary, _is_text, pa.types.is_struct)):
                return name
    raise DataError(f"no column of {what}: expected one of {', '.join(names)}, got {', '.join(schema.names)[:200]}")


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _content(cell: object, folder: Path) -> bytes:
    """Bytes of a cell: bytes, a struct of `bytes` and `path`, or a path relative to the parquet file's folder."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if not cell:
        raise DataError("caption without an image: the cell is empty")
    if isinstance(cell, bytes):
        if len(cell) > MAX_BYTES:
            raise DataError(f"file too large: {len(cell)} bytes, at most {MAX_BYTES}")
        return cell
    path = str(cell)
    if path.startswith(("http://", "https://")):
        raise DataError(f"image only by address: {path[:100]}; download the images first")
    if unsafe := unsafe_path(path):
        raise DataError(f"unsafe path: {unsafe}: {path[:100]!r}")
    return read_image(folder / path)


def _label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes that a Hugging Face table keeps as numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in features[column]["names"]]
            for column in (*NAMES["entity"], *NAMES["category"])
            if features.get(column, {}).get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
