"""Every reader keeps the same memory for n items and for 4 n, where a list of names or rows alone would not."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.readers.pictures import tar_of

BYTES = 1500  # of an image; nothing here decodes it
_CHILD = """
import sys
from pathlib import Path
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item
form, *paths = sys.argv[1:]
for path in paths:
    count = sum(isinstance(one, Item) for one in open_reader(form, path))
    # not getrusage, whose peak is that of the parent where that was larger
    print(count, next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


def image(number: int) -> bytes:
    return np.random.default_rng(number).bytes(BYTES)


def webdataset(folder: Path, count: int) -> Path:
    members = [(f"{n:07d}.{end}", image(n) if end == "png" else b"x") for n in range(count) for end in ("png", "txt")]
    return tar_of(folder / f"{count}.tar", members)


def parquet(folder: Path, count: int) -> Path:
    """One row group, the worst of layouts."""
    table = pa.table({"image": [image(n) for n in range(count)], "text": [f"text {n}" for n in range(count)]})
    pq.write_table(table, folder / f"{count}.parquet", row_group_size=count)
    return folder / f"{count}.parquet"


def imagefolder(folder: Path, count: int) -> Path:
    path = folder / str(count)
    path.mkdir()
    with (path / "metadata.jsonl").open("w") as rows:
        for number in range(count):
            (path / f"{number:07d}.png").write_bytes(image(number)[:100])
            rows.write(json.dumps({"file_name": f"{number:07d}.png", "text": "caption " * 100}) + "\n")
    return path


def coco(folder: Path, count: int) -> Path:
    path = folder / str(count)
    path.mkdir()
    (path / "a.jpg").write_bytes(image(0))
    images = [{"id": n, "file_name": "a.jpg", "coco_url": f"https://example.org/{n:0100d}"} for n in range(count)]
    annotations = [{"id": n, "image_id": n, "caption": "caption " * 50} for n in range(count)]
    (path / "captions.json").write_text(json.dumps({"annotations": annotations, "images": images}))
    return path


def archive(folder: Path, count: int) -> Path:
    path = folder / f"{count}.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("shard.parquet", parquet(folder, count).read_bytes())
    return path


# Items, and MiB that allocators may keep. A list of headers, rows, names or annotations, or a row group read at once,
# takes more: 6, 33, 17, 39 and 66 MiB when it was tried.
FORMS: list[tuple[str, Callable[[Path, int], Path], int, float]] = [
    ("webdataset", webdataset, 2_000, 3.0),
    ("parquet", parquet, 5_000, 20.0),
    ("imagefolder", imagefolder, 4_000, 6.0),
    ("coco", coco, 8_000, 6.0),
    ("archive", archive, 10_000, 20.0),
]
PARAMETERS = [
    pytest.param(*one, id=one[0], marks=[] if one[0] in ("webdataset", "parquet") else pytest.mark.slow)
    for one in FORMS
]


@pytest.mark.parametrize(("form", "build", "count", "most"), PARAMETERS)
def test_memory_does_not_grow_with_the_items(
    form: str, build: Callable[[Path, int], Path], count: int, most: float, tmp_path: Path
) -> None:
    paths = [build(tmp_path, count), build(tmp_path, 4 * count)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, form, *map(str, paths)], capture_output=True, text=True, check=True
    )
    counts, peaks = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert counts == (count, 4 * count)
    growth = (peaks[1] - peaks[0]) / 1024
    print(f"{form}: {peaks[0] / 1024:.1f} MiB for {count}, {growth:+.2f} MiB for {4 * count}")
    assert growth < most
