"""What a data set says of itself: counts, hashes, licences, rejections, and the encoder that made its vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.files import atomic_write
from rag_diffusion.types import PRECISIONS, DataSetVersion, Precision

FORMAT = 2  # of a data set's files; another one is an error that names the command which makes this one
SEGMENTED = 3  # of one with several segments
_READ = (1, FORMAT, SEGMENTED)  # 1 has no originals
REJECTED = "rejected.jsonl"  # in the folder of a generation
ORIGINALS = "originals"  # how the names of the files begin that hold them
REMOTE, UPLOADED, PIPELINE = "remote", "uploaded", "pipeline"
CORPUS_NAME = "corpus"  # of the data set that `dvc repro` makes


COUNTED = ("split", "style", "category", "licence", "source")  # columns whose values a manifest counts


def rebuild_hint(name: str) -> str:
    """What to do about damaged or outdated vectors and indexes of the data set `name`."""
    if name == CORPUS_NAME:
        return "run `dvc repro index`"
    return f"run `rag-diffusion kb rebuild {name}`"


def originals_hint(name: str) -> str:
    """What to do about damaged originals of the data set `name`."""
    if name == CORPUS_NAME:
        return "run the stage `ingest` again, with the source of `corpus.folder.path`"
    return f"add it again with --replace, or give its originals up: `rag-diffusion kb rebuild {name} --no-originals`"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One data set.

    Attributes:
        name: of the data set.
        form: of the reader, `uploaded`, `remote`, or `pipeline` for what `dvc repro` made.
        origin: where the pairs came from, as it was given.
        url: of a remote data set.
        index: of a remote data set: which of the server's; empty is its first.
        allow_hosts: of a remote data set: hosts that may have private addresses, see `addresses.check_url`.
        licence, attribution: of pairs that name none.
        num_pairs, num_rejected: what came in and what did not.
        rejected_by_reason: class of a reason -> how often.
        counts: `split`, `style`, `category`, `licence`, `source` -> value -> number of pairs.
        hash: of the pairs.
        image_size: side of the images in pixels.
        encoder_hash: of the encoder that made the vectors.
        originals: whether the files that pairs are made of are kept.
        num_originals, original_bytes: of how many pairs they are, and how large together.
        shards: name, rows and sha256 of each shard of pairs, in order.
        segments: of several, each one's folder, numbers, hash and recall, see `segments`; empty where all is one.
        files: every other file of the generation -> its length and sha256.
        recall: the recall report of the indexes.
        style_words: style -> how a text names it; of styles that are not here it is their own name.
        added: when these pairs came, in UTC as ISO 8601 has it; no part of what makes two data sets equal.
        generation: number of the folder that holds all this.
        format: of the files.
    """

    name: str
    form: str
    origin: str = ""
    url: str = ""
    index: str = ""
    allow_hosts: list[str] = field(default_factory=list)
    licence: str = ""
    attribution: str = ""
    num_pairs: int = 0
    num_rejected: int = 0
    rejected_by_reason: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    hash: str = ""
    image_size: int = 0
    encoder_hash: str = ""
    originals: bool = True
    num_originals: int = 0
    original_bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    files: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    recall: Mapping[str, Any] = field(default_factory=dict)
    style_words: Mapping[str, str] = field(default_factory=dict)
    added: str = field(default="", compare=False)
    generation: int = 0
    format: int = FORMAT

    @property
    def remote(self) -> bool:
        """Whether its pairs lie on another machine."""
        return self.form == REMOTE

    @property
    def version(self) -> DataSetVersion:
        """Which pairs it is of."""
        return DataSetVersion(name=self.name, hash=self.hash, num_pairs=self.num_pairs, added=self.added)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """In which its vectors are kept, that of each segment once, the finest first; empty where none are here."""
        reports = [entry["recall"] for entry in self.segments] or [self.recall] * bool(self.recall)
        return tuple(one for one in PRECISIONS if any(one == own.get("precision", PRECISIONS[0]) for own in reports))

    @property
    def coarsest(self) -> Precision:
        """The precision with the fewest bits that any vector of a segment was ever kept in."""
        kept: Precision = self.recall.get("coarsest", PRECISIONS[0])
        return kept

    def check_encoder(self, present: str) -> None:
        """Refuse vectors that another encoder made than the one of the hash `present`.

        Raises:
            LineageError: another one made them.
        """
        if self.encoder_hash != present:
            raise LineageError(
                f"kb: expected vectors of encoder {present[:12]}…, but those of {self.name!r} were made "
                f"by encoder {self.encoder_hash[:12]}…; {rebuild_hint(self.name)}"
            )

    def write(self, path: Path) -> None:
        """Write it to `path`, as a whole or not at all."""
        told = {name: value for name, value in vars(self).items() if name != "segments" or value}
        text = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False)
        atomic_write(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what `write` wrote to `path`.

        Raises:
            DataError: it is missing or damaged.
            LineageError: another version of this package wrote it.
        """
        name = path.parent.name
        again = f"remove it by `rag-diffusion kb remove {name}` and add it again"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version = raw["format"]
            unknown = set(raw) - {column.name for column in fields(cls)}
        except FileNotFoundError:
            raise DataError(f"kb: expected a data set {name!r}, found none; see `rag-diffusion kb list`") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected the manifest of a data set, got {error!r}; {again}") from None
        if version not in _READ:
            raise LineageError(f"{path}: expected a data set of format {FORMAT}, got {version}; {again}")
        if unknown:
            raise DataError(f"{path}: expected the manifest of a data set, got the keys {sorted(unknown)}; {again}")
        try:
            manifest = cls(**raw)
            for column in fields(cls):
                value, hint = getattr(manifest, column.name), str(column.type)
                kind = {"str": str, "int": int, "bool": bool}.get(hint, dict if "Mapping" in hint else list)
                if not isinstance(value, kind):
                    raise TypeError(f"{column.name}: {value!r}")
        except TypeError as error:
            raise DataError(f"{path}: expected the manifest of a data set, got {error}; {again}") from None
        return manifest
