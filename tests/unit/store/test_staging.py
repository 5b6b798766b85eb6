"""The unfinished part of a build."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from rag_diffusion.store import staging


@pytest.mark.parametrize(
    ("values", "kind"), [(["", "a", "ö€😀"], pa.string()), ([b"\0", b"", b"\xff"], pa.binary()), ([], pa.string())]
)
def test_a_column_is_what_arrow_makes_of_its_values(values: list[str] | list[bytes], kind: pa.DataType) -> None:
    column = staging._column(values, kind)
    column.validate(full=True)
    assert column.equals(pa.array(values, kind))


def test_vectors_come_back_as_they_were() -> None:
    blocks = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 3), dtype=np.float32)]
    vectors = staging._vectors(blocks)
    vectors.validate(full=True)
    assert vectors.to_pylist() == np.concatenate(blocks).tolist()
    assert len(staging._vectors([])) == 0


WRITE = """
import sys
from pathlib import Path
import numpy as np
from rag_diffusion.store.staging import write_table
from rag_diffusion.types import Pair
words = dict.fromkeys(("source", "entity", "family", "category", "style", "title", "caption", "licence", "attribution",
                       "split", "duplicate_group"), "x")
pair = Pair(pair_id="a/b", image=b"", original=None, **words)
write_table(Path(sys.argv[1]), [pair], *2 * [[np.ones((1, 4), np.float32)]])
print("pandas" in sys.modules)
"""


def test_a_part_is_written_without_pandas(tmp_path: object) -> None:
    told = subprocess.run([sys.executable, "-c", WRITE, f"{tmp_path}/x.arrow"], capture_output=True, text=True)
    assert told.stdout == "False\n", told.stderr
