"""Random damage to files of every form: reading goes to its end, and all that is taken is whole."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag_diffusion.errors import RagDiffusionError
from rag_diffusion.readers.checked import to_pair
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.images import decode
from rag_diffusion.readers.records import Item
from rag_diffusion.types import Pair
from tests.unit.readers.pictures import animated, parquet, picture, sample, tar_of, write_jsonl, zip_of


def sources(root: Path) -> dict[str, tuple[str, Path]]:
    """One small source of each form: what is damaged."""
    folder, beside = root / "folder", root / "coco"
    folder.mkdir()
    beside.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
        (beside / f"{number}.png").write_bytes(picture(number))
    write_jsonl(folder / "metadata.jsonl", [{"file_name": f"{n}.png", "text": "x", "label": "y"} for n in range(3)])
    images = [{"id": number, "file_name": f"{number}.png", "license": 1} for number in range(3)]
    annotations = [{"id": number, "image_id": number % 3, "caption": "x"} for number in range(6)]
    content = {"licenses": [{"id": 1, "name": "MIT"}], "images": images, "annotations": annotations}
    (beside / "captions.json").write_text(json.dumps(content))
    (root / "clip.gif").write_bytes(animated("GIF", {}))
    (root / "clip.webp").write_bytes(animated("WEBP", {}))
    shard = tar_of(root / "shard.tar", sample(0) | sample(1))
    table = parquet(
        root / "table.parquet", {"image": [picture(n) for n in range(20)], "text": ["x"] * 20}, row_group_size=5
    )
    return {
        "imagefolder": ("imagefolder", folder / "metadata.jsonl"),
        "coco": ("coco", beside / "captions.json"),
        "gif": ("video", root / "clip.gif"),
        "webp": ("video", root / "clip.webp"),
        "webdataset": ("webdataset", shard),
        "tar": ("archive", tar_of(root / "upload.tar", sample(0) | sample(1))),
        "zip": ("archive", zip_of(root / "upload.zip", sample(0) | sample(1))),
        "parquet": ("parquet", table),
    }


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy with changed bytes, cut, or with a piece of it put in."""
    changed = bytearray(content)
    what = rng.random()
    if what < 0.7:
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            changed[rng.randrange(len(changed))] = rng.choice((0, 255, rng.randrange(256)))
    elif what < 0.85:
        del changed[rng.randrange(len(changed)) :]
    else:
        at = rng.randrange(len(changed))
        changed[at:at] = changed[rng.randrange(len(changed)) :][: rng.randrange(1, 200)]
    return bytes(changed)


def results(form: str, path: Path) -> Iterator[str]:
    options: dict[str, Any] = {"caption": "x"} if form == "video" else {}
    try:
        reader = open_reader(form, path.parent if form == "imagefolder" else path, **options)
    except RagDiffusionError:
        yield "refused"
        return
    for one in reader:
        made = to_pair(one, data_set="d", size=16, licence="", attribution="") if isinstance(one, Item) else one
        if isinstance(made, Pair):
            assert made.caption
            assert decode(made.image, made.pair_id).size == (16, 16)
            yield "pair"
        else:
            assert ": " in made.reason, "a short class stands before the colon"
            assert len(made.kind) < 40
            yield made.kind


@pytest.mark.parametrize("count", [15, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["imagefolder", "coco", "gif", "webp", "webdataset", "tar", "zip", "parquet"])
@pytest.mark.filterwarnings("ignore")
def test_no_damage_ends_the_read(name: str, count: int, tmp_path: Path) -> None:
    form, path = sources(tmp_path)[name]
    whole = path.read_bytes()
    rng = random.Random(name)
    seen: Counter[str] = Counter()
    for _ in range(count):
        path.write_bytes(damaged(whole, rng))
        seen.update(results(form, path))
    assert seen.total() > seen["pair"], "some damage must be seen"
