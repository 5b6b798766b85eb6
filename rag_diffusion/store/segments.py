"""Segments of a data set: sets of pairs that are written once and searched together, until they are merged.

An insertion writes a segment of its own, so that it costs the same however many pairs there are. A data set of one
segment has its files in the folder of its generation; of several, each has a folder there, and the manifest tells of
all files. Source: the log-structured merge tree, O'Neil, Cheng, Gawlick, O'Neil (1996), as search engines have it.

Shapes: n pairs.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rag_diffusion.store.manifest import COUNTED, SEGMENTED, Manifest

_MODULUS = 2**256
_OWN = (
    "num_pairs", "num_rejected", "rejected_by_reason", "counts", "hash", "num_originals", "original_bytes", "recall",
)  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        folder: in that of the generation, empty where it is that itself.
        manifest: as if it were a data set of its own.
    """

    folder: str
    manifest: Manifest

    @property
    def content(self) -> frozenset[tuple[str, str]]:
        """Name and sha256 of every file: what makes two segments the same."""
        entries = [*self.manifest.files.items(), *((shard["name"], shard) for shard in self.manifest.shards)]
        return frozenset((str(name), str(entry["sha256"])) for name, entry in entries)


def segments_of(manifest: Manifest) -> list[Segment]:
    """The segments of the data set of a `manifest`, at least one, in the order in which they were written."""
    if not manifest.segments:
        return [Segment("", manifest)]
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    shards: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, facts in manifest.files.items():
        files[_folder(name)][_within(name)] = facts
    for shard in manifest.shards:
        shards[_folder(shard["name"])].append(shard | {"name": _within(shard["name"])})
    segments = []
    for entry in manifest.segments:
        folder, own = str(entry["folder"]), {name: entry[name] for name in _OWN}
        segment = replace(manifest, **own, files=files[folder], shards=shards[folder], segments=[])
        segments.append(Segment(folder, segment))
    return segments


def together(facts: Manifest, segments: Sequence[Segment]) -> Manifest:
    """The manifest of a data set of several segments.

    Args:
        facts: what is the same of all.
        segments: at least one; of a single one it is its own manifest.
    """
    if len(segments) == 1 and not segments[0].folder:
        return segments[0].manifest
    manifests = [segment.manifest for segment in segments]
    return replace(
        facts,
        num_pairs=sum(own.num_pairs for own in manifests),
        num_rejected=sum(own.num_rejected for own in manifests),
        num_originals=sum(own.num_originals for own in manifests),
        original_bytes=sum(own.original_bytes for own in manifests),
        rejected_by_reason=_summed(own.rejected_by_reason for own in manifests),
        counts={name: _summed(own.counts.get(name, {}) for own in manifests) for name in COUNTED},
        hash=hash_together(own.hash for own in manifests),
        recall=_least_recall(manifests),
        files={_joined(one.folder, name): entry for one in segments for name, entry in one.manifest.files.items()},
        shards=[
            shard | {"name": _joined(one.folder, shard["name"])} for one in segments for shard in one.manifest.shards
        ],
        segments=[{"folder": one.folder, **{name: getattr(one.manifest, name) for name in _OWN}} for one in segments],
        format=SEGMENTED,
    )


def hash_together(hashes: Iterable[str]) -> str:
    """The hash of pairs that lie in several segments, from `hashes` in hex of each: in whatever way they are parted.

    It is their sum modulo 2^256. Source: AdHash, Bellare and Micciancio, "A new paradigm for collision-free hashing"
    (1997).
    """
    return f"{sum(int(own, 16) for own in hashes) % _MODULUS:064x}"


def free_folder(segments: Iterable[Segment]) -> str:
    """A folder for another segment beside `segments`."""
    return f"s{1 + max((int(one.folder[1:]) for one in segments if one.folder), default=0):05d}"


def link_segment(source: Path, target: Path, manifest: Manifest) -> None:
    """Have the files of a segment in another folder too; a file system without links gets copies.

    Args:
        source: its folder.
        target: another one, which is made.
        manifest: of the segment.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in (*manifest.files, *(str(shard["name"]) for shard in manifest.shards)):
        (target / name).parent.mkdir(exist_ok=True)  # of a shard of its index
        try:
            os.link(source / name, target / name)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source / name, target / name)


def _folder(name: str) -> str:
    return name.partition("/")[0]


def _within(name: str) -> str:
    return name.partition("/")[2]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for own in counts:
        total.update(own)
    return dict(sorted(total.items()))


def _least_recall(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """The report of the largest segment, each recall that of the segment where it is least."""
    largest = max(manifests, key=lambda own: own.num_pairs)
    least = {
        name: min(own.recall[name] for own in manifests if name in own.recall)
        for name in dict.fromkeys(name for own in manifests for name in own.recall)
        if name.startswith("recall_")
    }
    return {**largest.recall, **least}
