"""Arrow files as `datasets.save_to_disk` leaves them: `data-*.arrow`, in a folder for each split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from rag_diffusion.errors import DataError
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.table import TableReader, rows_of

_AT_ONCE = 16  # rows that Python has at a time


class ArrowReader(TableReader):
    """Rows of the arrow files below a folder; the split is the name of the folder that they lie in.

    Args:
        path: a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` made.
        image_column, caption_column, key_column: as of a `TableReader`.

    Raises:
        DataError: no arrow file there.
    """

    suffix, what = ".arrow", "arrow"

    def _read_file(self, file: Path, name: str) -> Iterator[Item | Rejection]:
        split = file.parent.name if (file.parent.parent / "dataset_dict.json").is_file() else ""
        for candidate in self._batches(file, name):
            if split and isinstance(candidate, Item) and not candidate.split:
                candidate = replace(candidate, split=split)
            yield candidate

    def _batches(self, file: Path, name: str) -> Iterator[Item | Rejection]:
        with pa.memory_map(str(file)) as source, _opened(source) as stream:
            columns, number = self._columns(stream.schema), 0
            for batch in stream:
                for start in range(0, batch.num_rows, _AT_ONCE):
                    for row in rows_of(batch.slice(start, _AT_ONCE)):
                        yield self._item_or_not(row, f"{name}#{number:08d}", columns, file.parent)
                        number += 1


def _opened(source: pa.NativeFile) -> pa.RecordBatchReader:
    """A stream, or a file, which older versions wrote.

    Raises:
        DataError: it is neither.
    """
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid as error:
        raise DataError(f"corrupt arrow file: {' '.join(str(error).split())[:200]}") from None
