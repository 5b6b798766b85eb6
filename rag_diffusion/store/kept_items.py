"""What `ingest` keeps of anybody's files, so that another image size needs no source: originals, splits.

A corpus that keeps them is a source itself: `CorpusItems` reads what its reader yielded.

Shapes: N pairs of the corpus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.errors import DataError
from rag_diffusion.files import file_hash
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.store.manifest import ORIGINALS
from rag_diffusion.store.originals import OriginalsWriter, save_places
from rag_diffusion.store.pair_set import PairSet
from rag_diffusion.store.pipeline_corpus import CORPUS_MANIFEST, read_corpus
from rag_diffusion.types import Pair

AS_READ = f"{ORIGINALS}.json"  # what the source says and the pairs do not: splits by pair id, doubts of the reader


class KeptItems:
    """The items of a corpus that is being read, on disk.

    Args:
        scratch: an empty folder on the disk of the corpus.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._files = scratch, dict[str, dict[str, Any]]()
        self._writer = OriginalsWriter(scratch, self._files)
        self._folders, self._splits = dict[str, tuple[int, int, int, int]](), dict[str, str]()

    def add(self, pair: Pair, item: Item) -> None:
        """Keep the `item` that a `pair` was made of; the pair's split is the one that the source names, or empty."""
        self._folders[pair.pair_id] = (*self._writer.add(item.image), item.side)
        if pair.split:
            self._splits[pair.pair_id] = pair.split

    def move(self, folder: Path, pair_ids: Sequence[str], doubts: Sequence[str]) -> dict[str, Any]:
        """Put everything into a corpus.

        Args:
            folder: of the corpus.
            pair_ids: of its N pairs, in their order.
            doubts: sentences of the reader.

        Returns:
            `num_originals`, `original_bytes`, and length and sha256 of each of `files`, for its manifest.
        """
        self._writer.close()
        for name in self._files:
            os.replace(self._scratch / name, folder / name)
        table = np.array([self._folders[name] for name in pair_ids], dtype=np.int64)
        facts = save_places(folder, table, self._files)
        (folder / AS_READ).write_text(json.dumps({"splits": self._splits, "doubts": list(doubts)}), encoding="utf-8")
        others = (path for path in sorted(folder.glob(f"{ORIGINALS}*")) if path.name not in self._files)
        facts["files"] |= {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in others}
        return facts


@dataclass(frozen=True)
class _Doubts:
    kept: list[str]

    def sentences(self) -> list[str]:
        return self.kept


class CorpusItems:
    """Items of a corpus as its reader yielded them, in the order of their names; see `Reader`.

    Args:
        folder: of the corpus.
        facts: all that it says of itself.
        pairs: of the corpus.

    Attributes:
        form: of the reader.
        doubts: of the reader.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], pairs: PairSet) -> None:
        self._facts, self._pairs = facts, pairs
        self.form: str = facts["form"]
        try:
            as_read = json.loads((folder / AS_READ).read_text(encoding="utf-8"))
            self._splits: dict[str, str] = as_read["splits"]
            self.doubts = _Doubts(as_read["doubts"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder / AS_READ}: expected splits and doubts, got {error!r}; give the source") from None

    @classmethod
    def open(cls, folder: Path) -> CorpusItems | None:
        """What the corpus in a `folder` keeps; None where there is no corpus, or one that keeps nothing.

        Raises:
            DataError: it is damaged.
        """
        if not (folder / CORPUS_MANIFEST).is_file():
            return None
        facts, manifest = read_corpus(folder)
        return cls(folder, facts, PairSet.of_corpus(folder, manifest)) if manifest.num_originals else None

    def __iter__(self) -> Iterator[Item | Rejection]:
        """Rejections, then items.

        Raises:
            DataError: an original is gone.
        """
        for entry in self._facts["rejected"]:
            yield Rejection(what=entry["what"], reason=entry["reason"])
        for row in range(len(self._pairs)):
            pair, original = self._pairs.pair(row), self._pairs.original(row)
            if original is None:
                raise DataError(f"{pair.pair_id}: expected an original, found none; give the source")
            label = "" if pair.entity == pair.pair_id else pair.entity
            yield Item(
                name=pair.pair_id.removeprefix(f"{pair.source}/"),
                image=original.read(),
                caption=pair.caption,
                label=label,
                category=pair.category,
                style=pair.style,
                title="" if pair.title in (label, pair.caption) else pair.title,
                licence=pair.licence,
                attribution=pair.attribution,
                split=self._splits.get(pair.pair_id, ""),
                side=original.side,
            )
