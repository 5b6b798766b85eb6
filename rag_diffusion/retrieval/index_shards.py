"""The index of some pairs, in one piece or in shards: each over a stretch of rows, built and opened by itself.

Hits of shards are merged exactly.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.config import Config, IndexConfig
from rag_diffusion.engine.work import Engine, open_engine
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.layout import INDEX, RECALL_FILE, VECTORS
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.retrieval.indexes import INDEX_FILES, build_indexes, is_tuned, open_indexes
from rag_diffusion.retrieval.recall import with_earlier
from rag_diffusion.retrieval.stacked import StackedIndex
from rag_diffusion.store.vectors import Vectors

SHARDS_FILE = "shards.json"
_REMEDY = "let all machines see the same project folder"
_SHORT_FILE = "short-texts.npy"  # while shards are built


@dataclass(frozen=True, kw_only=True)
class BuildShard:
    """Units are shards: the number, the first row and the one after the last; see `engine.work.Work`.

    Attributes:
        vectors: file of the vectors, on every machine.
        rows: n.
        folder: gets a folder for each shard; all machines see it.
        config: of each shard's index.
        kept: file of the same vectors in fewer bits, which are to be searched; None where that is `vectors`.
        short: file of vectors of short texts, see `build_indexes`.
    """

    vectors: Path
    rows: int
    folder: Path
    config: IndexConfig
    kept: Path | None = None
    short: Path | None = None

    def open(self) -> Callable[[tuple[int, int, int]], dict[str, Any]]:
        """See `Work.open`.

        Raises:
            DataError: this machine has no such vectors.
            LineageError: it does not see the folder of the shards.
        """
        exact = Vectors.open(self.vectors, self.rows, remedy=_REMEDY)
        vectors = exact if self.kept is None else Vectors.open(self.kept, self.rows, remedy=_REMEDY)
        short = None if self.short is None else partial(np.load, self.short)
        if not self.folder.is_dir():
            raise LineageError(f"{self.folder}: expected a folder that all machines see, found none on this one")

        def build(unit: tuple[int, int, int]) -> dict[str, Any]:
            number, start, stop = unit
            place = self.folder / _name(number)
            shutil.rmtree(place, ignore_errors=True)  # of a worker that died
            place.mkdir()
            return build_indexes(
                place, vectors.stretch(start, stop), self.config, exact.stretch(start, stop), short=short
            )

        return build


def build_index_files(
    folder: Path,
    config: Config,
    vectors: Path,
    rows: int,
    *,
    kept: Path,
    shards: int,
    remedy: str,
    short: Callable[[], Floats] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Index vectors into a folder: here, or in shards by the workers that the configuration names.

    Args:
        folder: where the indexes will lie; all machines see it.
        config: which index, in what precision the vectors are searched, and the engine.
        vectors: file of the vectors as they were made, on every machine.
        rows: n.
        kept: file that the same are written to where they are to be searched in fewer bits.
        shards: 1 is an index in one piece.
        remedy: what makes the vectors again, for errors.
        short: see `build_indexes`.
        earlier: see `build_indexes`.

    Returns:
        The report, see `build_indexes`.

    Raises:
        ConfigError: there is no such index.
        DataError: the vectors are missing or damaged.
        RemoteError: no cluster answers.
    """
    exact = Vectors.open(vectors, rows, remedy=remedy)
    searched = exact.kept(kept, config.index.precision, remedy=remedy)
    if shards == 1:
        return build_indexes(folder, searched, config.index, exact, short=short, earlier=earlier)
    vectors, folder, kept = vectors.absolute(), folder.absolute(), kept.absolute()  # workers have another directory
    own = None if searched is exact else kept
    work = BuildShard(vectors=vectors, rows=rows, folder=folder, config=config.index, kept=own)
    return build_shards(work, shards, open_engine(config), short, earlier)


def build_shards(
    work: BuildShard,
    count: int,
    engine: Engine | None,
    short: Callable[[], Floats] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Index vectors in shards of about equal size, and write what each is and the recall report.

    Args:
        work: names the vectors and the folder.
        count: of shards; fewer where there are fewer vectors.
        engine: builds them, and is closed: the files may go, or be others the next time; None is this process.
        short: see `build_indexes`.
        earlier: see `build_indexes`.

    Returns:
        A report as that of `build_indexes`. Recalls are those of the worst shard, by captions of its
        own and the short texts of all.

    Raises:
        ConfigError: there is no such index.
    """
    count = max(1, min(count, work.rows))
    bounds = [work.rows * number // count for number in range(count + 1)]
    units = [(number, bounds[number], bounds[number + 1]) for number in range(count)]
    encoded = work.folder / _SHORT_FILE
    width = Vectors.open(work.vectors, work.rows, remedy=_REMEDY).image.shape[1]
    if short is not None and is_tuned(work.config, -(-work.rows // count), width):
        np.save(encoded, short())
        work = replace(work, short=encoded)
    reports = list[dict[str, Any]](map(work.open(), units) if engine is None else engine.map(work, units))
    if engine is not None:
        engine.close()
    shards = [
        {"name": _name(number), "start": start, "stop": stop, "factory": report["factory"]}
        for (number, start, stop), report in zip(units, reports, strict=True)
    ]
    (work.folder / SHARDS_FILE).write_text(json.dumps(shards, indent=2) + "\n", encoding="utf-8")
    encoded.unlink(missing_ok=True)
    names = sorted({name for report in reports for name in report if name.startswith("recall_")})
    recalls = {name: min(report[name] for report in reports if name in report) for name in names}
    lossy = [report["precision_recall"] for report in reports if "precision_recall" in report]
    left = {name: min(own[name] for own in lossy) for own in lossy[:1] for name in own}
    merged: dict[str, Any] = {
        **reports[0],
        **recalls,
        **({"precision_recall": left} if left else {}),
        "num_pairs": work.rows,
        "shards": count,
        "passed": all(report["passed"] for report in reports),
    }
    merged = with_earlier(merged, earlier)
    (work.folder / RECALL_FILE).write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
    return merged


def open_shards(folder: Path, vectors: Vectors, factory: str, remedy: str) -> dict[str, Nearest]:
    """The indexes over vectors, by similarity, whether they lie in shards or not.

    Args:
        folder: that `build_shards` or `build_indexes` wrote into.
        vectors: n of images and of captions.
        factory: of indexes that are in no shards.
        remedy: what makes new ones, for errors.

    Raises:
        DataError: a shard is missing or damaged.
        LineageError: they are of other vectors.
    """
    if not (folder / SHARDS_FILE).is_file():
        return open_indexes(folder, vectors, factory, remedy)
    opened: dict[str, list[Nearest]] = {name: [] for name in INDEX_FILES}
    for shard in shards_of(folder, len(vectors.image), factory, remedy):
        for name, index in open_shard(folder, vectors, shard, remedy).items():
            opened[name].append(index)
    return {name: StackedIndex(indexes) for name, indexes in opened.items()}


def open_shard(folder: Path, vectors: Vectors, shard: Mapping[str, Any], remedy: str) -> dict[str, Nearest]:
    """The indexes of one shard, by similarity; their rows begin at 0.

    Args:
        folder: of all shards.
        vectors: n of images and of captions, of all shards.
        shard: one of `shards_of`.
        remedy: what makes new ones, for errors.

    Raises:
        DataError: it is missing or damaged.
        LineageError: it is of other vectors.
    """
    place = folder / shard["name"]
    if not place.is_dir():
        raise DataError(f"{place}: expected a shard of the index, found none; {remedy}")
    return open_indexes(place, vectors.stretch(shard["start"], shard["stop"]), shard["factory"], remedy)


def shards_of(folder: Path, rows: int, factory: str, remedy: str) -> list[dict[str, Any]]:
    """What each shard of an index is, in the order of their rows: `name`, `start`, `stop` and `factory`.

    Args:
        folder: of the index.
        rows: n that it should be over.
        factory: of an index that is in no shards, and counts as one.
        remedy: what makes a new one, for errors.

    Raises:
        DataError: the description is damaged.
        LineageError: they are of other vectors.
    """
    path = folder / SHARDS_FILE
    if not path.is_file():
        return [{"name": ".", "start": 0, "stop": rows, "factory": factory}]
    try:
        shards: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        bounds = [0, *(shard["stop"] for shard in shards)]
        whole = [shard["start"] for shard in shards] == bounds[:-1] and all(shard["factory"] for shard in shards)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the rows of each shard, got {error!r}; {remedy}") from None
    if not whole or bounds[-1] != rows:
        raise LineageError(f"{path}: expected shards of {rows} vectors, got shards of {bounds[-1]}; {remedy}")
    return shards


def vectors_folder(root: Path, stamp: Mapping[str, object]) -> Path:
    """Where the vectors lie that the pipeline's index searches: those in fewer bits lie with it.

    Args:
        root: the project.
        stamp: of the index.
    """
    return root / (INDEX if "precision" in stamp else VECTORS)


def _name(number: int) -> str:
    return f"shard-{number:05d}"
