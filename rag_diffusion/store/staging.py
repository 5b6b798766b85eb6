"""The unfinished part of a build: embedded pairs in the order they came in, kept so that a killed build goes on.

A part on disk is a table of its pairs with their vectors, the originals of these pairs, and a record that says of how
many candidates, and of which, it was made. A build that is started again goes on after the last part that its source
still agrees with; nothing of those is decoded or embedded again. A source whose fingerprint (`Resumable`) is as it was
agrees with all of them and is not read; any other is read from its start, and each part's digest is compared.

The bytes of parts that another process left are compared with their records once the source is at its end.

Shapes: n pairs of a part, D width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.files import atomic_write, file_hash
from rag_diffusion.readers.records import Item, Reader, Rejection, Resumable
from rag_diffusion.store.shards import COLUMNS, SCHEMA
from rag_diffusion.types import Pair

PART_CANDIDATES = 2048
PART_BYTES = 2**26  # of images and originals; a part is held in memory while it is filled
PART_SECONDS = 10.0  # at the latest a part is written
PART_SECONDS_AT_FIRST = 0.05  # a part costs a millisecond beside its bytes
PART_SHARE = 0.02  # of the time that a build has taken; between the two
PLAN, FINGERPRINT = "plan.json", "fingerprint"

Candidate = Item | Rejection | Pair


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A batch of candidates, checked and embedded.

    Attributes:
        digest: of the candidates.
        candidates: how many they were.
        pairs: those that were taken.
        rejected: the others.
        image, text: (n, D) vectors of the pairs.
        sides: see `Item.side`, of each pair's original; empty where no pair has one.
    """

    digest: bytes
    candidates: int
    pairs: Sequence[Pair]
    rejected: Sequence[Rejection]
    image: Floats
    text: Floats
    sides: Sequence[int] = ()

    @property
    def num_bytes(self) -> int:
        """Of images and originals."""
        return sum(len(pair.image) + len(pair.original or b"") for pair in self.pairs)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part on disk.

    Attributes:
        path: table of its pairs with their vectors, an Arrow file.
        rows: n.
        candidates: how many candidates it was made of.
        batches: length and digest of each batch of them.
        num_bytes, sha256: of the table's file.
        num_rejected: candidates that were not taken.
        original_bytes: of the originals of its pairs, which lie one after the other in a file of their own.
        originals_sha256: of that file, empty where there is none.
    """

    path: Path
    rows: int
    candidates: int
    batches: list[list[Any]]
    num_bytes: int
    sha256: str
    num_rejected: int
    original_bytes: int = 0
    originals_sha256: str = ""

    @property
    def originals_path(self) -> Path:
        """Of its pairs' originals."""
        return self.path.with_suffix(".originals")

    def originals(self) -> Ints:
        """(n, 3) offset, length and side of the pairs' originals; length -1 where a pair has none."""
        return np.load(self.path.with_suffix(".originals.npy"))  # type: ignore[no-any-return]

    def there(self) -> bool:
        """Whether its files are as long as they were."""
        long = self.path.stat().st_size == self.num_bytes
        return long and (not self.originals_sha256 or self.originals_path.stat().st_size == self.original_bytes)

    def intact(self) -> bool:
        """Whether every byte of its files is as it was."""
        if self.originals_sha256 and file_hash(self.originals_path) != self.originals_sha256:
            return False
        return file_hash(self.path) == self.sha256

    def table(self) -> pa.Table:
        """Its pairs and vectors, mapped from the file."""
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_file(source).read_all()

    def rejected(self) -> Iterator[Rejection]:
        """Candidates that were not taken."""
        if self.num_rejected:
            with self.path.with_suffix(".rejected.jsonl").open(encoding="utf-8") as lines:
                yield from (Rejection(**json.loads(line)) for line in lines)


class Staging:
    """The parts of one build.

    Args:
        folder: where they lie.
        plan: what the build makes; parts of another plan are thrown away.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(plan, indent=1, sort_keys=True)
        if not (folder / PLAN).is_file() or (folder / PLAN).read_text(encoding="utf-8") != text:
            shutil.rmtree(folder, ignore_errors=True)
            atomic_write(folder / PLAN, text)
        self.parts: list[Part] = []
        while (part := self._read(len(self.parts))) is not None:
            self.parts.append(part)
        self._inherited = len(self.parts)

    @property
    def done(self) -> int:
        """Candidates that parts hold."""
        return sum(part.candidates for part in self.parts)

    def resume(self, reader: Reader | Iterable[Candidate]) -> Iterator[Candidate]:
        """The candidates of a `reader` that no part holds; parts that it no longer agrees with are dropped."""
        if not isinstance(reader, Resumable):
            return self._compared(reader)
        fingerprint, kept = reader.fingerprint(), self.folder / FINGERPRINT
        if fingerprint and kept.is_file() and kept.read_text(encoding="utf-8") == fingerprint:
            return reader.after(self.done)
        source = self._compared(reader)
        atomic_write(kept, fingerprint)  # not before: of a comparison that is killed nothing may be taken for granted
        return source

    def drop_damaged(self) -> bool:
        """Drop parts of another process from the first on whose bytes are not as it wrote them; whether there are."""
        inherited, self._inherited = self.parts[: self._inherited], 0
        damaged = next((number for number, part in enumerate(inherited) if not part.intact()), None)
        if damaged is not None:
            self.drop(damaged)
        return damaged is not None

    def _compared(self, reader: Reader | Iterable[Candidate]) -> Iterator[Candidate]:
        source = iter(reader)
        for number, part in enumerate(self.parts):
            if not _agrees(part, source):
                self.drop(number)
                source = iter(reader)
                deque(islice(source, self.done), maxlen=0)
                break
        return source

    def write(self, batches: Sequence[Embedded]) -> None:
        """Keep `batches` as the next part."""
        number = len(self.parts)
        pairs = [pair for batch in batches for pair in batch.pairs]
        filled = [batch for batch in batches if batch.pairs]
        path = self.folder / f"{number:05d}.arrow"
        write_table(path, pairs, [batch.image for batch in filled], [batch.text for batch in filled])
        rejected = [json.dumps(asdict(rejection)) + "\n" for batch in batches for rejection in batch.rejected]
        if rejected:
            path.with_suffix(".rejected.jsonl").write_text("".join(rejected), encoding="utf-8")
        original_bytes, originals_sha256 = _write_originals(path.with_suffix(".originals"), batches)
        part = Part(
            path=path,
            rows=len(pairs),
            candidates=sum(batch.candidates for batch in batches),
            batches=[[batch.candidates, batch.digest.hex()] for batch in batches],
            num_bytes=path.stat().st_size,
            sha256=file_hash(path),
            num_rejected=len(rejected),
            original_bytes=original_bytes,
            originals_sha256=originals_sha256,
        )
        record = {column.name: getattr(part, column.name) for column in fields(Part) if column.name != "path"}
        path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")  # half of it is no JSON
        self.parts.append(part)

    def _read(self, number: int) -> Part | None:
        path = self.folder / f"{number:05d}.arrow"
        try:
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            part = Part(path=path, **record)
            return part if part.there() else None
        except (OSError, ValueError, TypeError):  # no record, or one of another version
            return None

    def drop(self, number: int) -> None:
        """Forget the parts from `number` on, and remove their files."""
        for part in self.parts[number:]:
            for suffix in (".json", ".rejected.jsonl", ".arrow", ".originals", ".originals.npy"):
                part.path.with_suffix(suffix).unlink(missing_ok=True)
        del self.parts[number:]
        self._inherited = min(self._inherited, number)


def write_table(path: Path, pairs: Sequence[Pair], image: Sequence[Floats], text: Sequence[Floats]) -> None:
    """Write a part's table as one record batch: its pairs but for their originals, with their vectors.

    Args:
        path: the file.
        pairs: n pairs.
        image: vectors of the images in blocks, together (n, D).
        text: vectors of the captions, as those of the images.
    """
    columns = [
        pa.nulls(len(pairs), pa.binary())
        if name == "original"
        else _column([getattr(pair, name) for pair in pairs], SCHEMA.field(name).type)
        for name in COLUMNS
    ]
    vectors = [_vectors(blocks) for blocks in (image, text)]
    schema = pa.schema([*SCHEMA, ("image_vector", vectors[0].type), ("text_vector", vectors[1].type)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([*columns, *vectors], schema=schema))


def _write_originals(path: Path, batches: Sequence[Embedded]) -> tuple[int, str]:
    """Bytes and sha256 of the file of all originals; nothing is written where there are none."""
    originals = [
        (pair.original, batch.sides[row] if batch.sides else 0)
        for batch in batches
        for row, pair in enumerate(batch.pairs)
    ]
    if all(original is None for original, _ in originals):
        return 0, ""
    table, offset, sha256 = np.full((len(originals), 3), -1, dtype=np.int64), 0, hashlib.sha256()
    with path.open("wb") as file:
        for row, (original, side) in enumerate(originals):
            if original is not None:
                file.write(original)
                sha256.update(original)
                table[row] = offset, len(original), side
                offset += len(original)
    np.save(path.with_suffix(".originals.npy"), table)
    return offset, sha256.hexdigest()


def _column(values: Sequence[str | bytes], kind: pa.DataType) -> pa.Array:
    """An array of texts or bytes; `pa.array` would import pandas first, a tenth of a second for every process."""
    content = [value if isinstance(value, bytes) else value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, content)], dtype=np.int32)
    return pa.Array.from_buffers(kind, len(content), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(content))])


def _vectors(blocks: Sequence[Floats]) -> pa.Array:
    table = np.ascontiguousarray(np.concatenate(blocks) if blocks else np.empty((0, 1)), dtype=np.float32)
    numbers = pa.Array.from_buffers(pa.float32(), table.size, [None, pa.py_buffer(table)])
    return pa.FixedSizeListArray.from_arrays(numbers, table.shape[1])


def digest(candidates: Iterable[Candidate]) -> bytes:
    """sha256 of all that `candidates` say and show."""
    sha256 = hashlib.sha256()
    for candidate in candidates:
        for column in fields(candidate):
            value = getattr(candidate, column.name)
            content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
            sha256.update(len(content).to_bytes(8, "little") + content)
    return sha256.digest()


def _agrees(part: Part, source: Iterator[Candidate]) -> bool:
    """Whether the next candidates of a source are those that a part was made of."""
    for length, expected in part.batches:
        batch = list(islice(source, length))
        if len(batch) != length or digest(batch).hex() != expected:
            return False
    return True
