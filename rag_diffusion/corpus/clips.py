"""Animated emoji as clips: joined to what Unicode calls them by code point, split as the corpus splits.

An entity of the corpus stands in the split that it has there. One that the corpus does not draw (people, hands, flags)
stands with all that begin with the same character or look the same, by the same hash.

Shapes: n frames of a clip, H/W image.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import ClipsConfig, SplitConfig
from rag_diffusion.corpus.captions import CAPTION_TEMPLATES, choose, describe
from rag_diffusion.corpus.duplicates import IDENTICAL, UnionFind, thumbnails
from rag_diffusion.corpus.emoji import Annotation, has_skin_tone, normalize_code_points
from rag_diffusion.corpus.split import MAX_TEST_FAMILY, families, split_by_hash
from rag_diffusion.errors import DataError
from rag_diffusion.progress import progress
from rag_diffusion.readers.frames import image_frames
from rag_diffusion.readers.packages import Package, fetch_package, read_members
from rag_diffusion.store.clips import Clip
from rag_diffusion.store.corpus import Corpus

_STILL = 0.002  # mean absolute difference of a clip's most different frames, colours in [0, 1]
_COMPARED = 16  # pixels
_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """A source list: the packages, and what is said of all their drawings."""

    words: str
    licence: str
    attribution: str
    packages: tuple[Package, ...]

    @classmethod
    def read(cls, path: Path) -> ClipSource:
        """Read the list at `path`, e.g. data/sources/clips.yaml.

        Raises:
            DataError: it has not what a list must have.
        """
        try:
            row = yaml.safe_load(path.read_text(encoding="utf-8"))
            packages = tuple(Package.parse(package) for package in row["packages"])
            return cls(words=row["words"], licence=row["licence"], attribution=row["attribution"], packages=packages)
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise DataError(
                f"{path}: expected words, licence, attribution and packages, got {error!r}; restore the list"
            ) from None


def load_clips(
    config: ClipsConfig,
    source: ClipSource,
    annotations: Mapping[str, Annotation],
    corpus: Corpus,
    split: SplitConfig,
    cache: Path,
) -> tuple[list[Clip], list[Pixels], list[dict[str, str]]]:
    """Fetch, join, decode, split.

    Args:
        config: which frames are taken.
        source: the packages.
        annotations: entity -> what it is called.
        corpus: gives sizes and splits.
        split: shares of entities that the corpus does not draw.
        cache: folder of package archives.

    Returns:
        Clips, the (n, H, W, 3) frames of each, and the rejected ones with their reasons.

    Raises:
        DataError: a package cannot be had.
    """
    rejected: list[dict[str, str]] = []
    clips: list[Clip] = []
    frames: list[Pixels] = []
    for entity, found in _decoded(config, source, annotations, corpus.image_size, cache):
        if isinstance(found, str):
            rejected.append({"what": entity, "reason": found})
            continue
        annotation, (pixels, seconds) = annotations[entity], found
        template = choose(CAPTION_TEMPLATES, f"clip/{entity}")
        kind = annotation.subgroup.replace("-", " ").strip()
        clips.append(
            Clip(
                name=f"clip/{entity}",
                entity=entity,
                family="",
                split="",
                title=annotation.title,
                caption=describe(template, title=annotation.title, style=source.words, kind=kind),
                licence=source.licence,
                attribution=source.attribution,
                seconds=seconds,
                start=0,
                count=len(pixels),
            )
        )
        frames.append(pixels)
    return *_split(clips, frames, corpus, split, rejected), rejected


def _decoded(
    config: ClipsConfig, source: ClipSource, annotations: Mapping[str, Annotation], size: int, cache: Path
) -> Iterator[tuple[str, tuple[Pixels, float] | str]]:
    """Entity, and its frames with the seconds between them, or why there are none; each entity once, by name."""
    taken: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_THREADS) as pool:
        files: dict[str, Path] = {}
        for package in source.packages:
            for name, content in read_members(fetch_package(package, cache), lambda name: name.endswith(".webp")):
                entity = normalize_code_points(Path(name).stem)
                reason = _why_not(entity, annotations, taken)
                if reason:
                    yield entity, reason
                    continue
                taken.add(entity)
                files[entity] = Path(folder) / f"{entity}.webp"
                files[entity].write_bytes(content)
        names = sorted(files)
        read = pool.map(lambda name: _frames(files[name], config, size), names)
        yield from zip(names, progress(read, total=len(names), desc="decoding clips", unit="clip"), strict=True)


def _why_not(entity: str, annotations: Mapping[str, Annotation], taken: set[str]) -> str:
    if has_skin_tone(entity):
        return "skin tone: the drawing without one stands for it"
    if entity not in annotations:
        return "code point has no annotation"
    return "second clip of an entity" if entity in taken else ""


def _frames(path: Path, config: ClipsConfig, size: int) -> tuple[Pixels, float] | str:
    try:
        shown = list(image_frames(path))
    except DataError as error:
        return f"does not decode: {error}"
    if len(shown) < 2:
        return "a clip of one frame"
    chosen = shown[:: config.every][: config.max_frames]
    if len(chosen) < config.min_frames:
        return f"too short: {len(chosen)} frames, at least {config.min_frames}"
    resized = [frame.convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for _, frame in chosen]
    pixels = np.stack([np.asarray(frame) for frame in resized])
    most = max(float(np.abs(frame.astype(np.float32) - pixels[0]).mean()) for frame in pixels) / 255
    return "nothing moves" if most < _STILL else (pixels, round(chosen[1][0] - chosen[0][0], 4))


def _split(
    clips: Sequence[Clip],
    frames: Sequence[Pixels],
    corpus: Corpus,
    config: SplitConfig,
    rejected: list[dict[str, str]],
) -> tuple[list[Clip], list[Pixels]]:
    """Clips with family and split, but for those of train that look like one of another split."""
    known = {
        entity: (family, split)
        for entity, family, split in zip(
            corpus.column("entity"), corpus.column("family"), corpus.column("split"), strict=True
        )
    }
    families_of = _own_families(clips, frames, known)
    size, salt = Counter(families_of.values()), int(corpus.manifest.get("split_salt", 0))
    placed = []
    for clip in clips:
        family = families_of.get(clip.entity, "")
        split = "train" if size[family] > MAX_TEST_FAMILY else split_by_hash(family, salt, config)
        family, split = known.get(clip.entity, (family, split))
        placed.append(replace(clip, family=family, split=split))
    alike = _alike(placed, frames)
    kept: list[Clip] = []
    kept_frames: list[Pixels] = []
    for number, (clip, pixels) in enumerate(zip(placed, frames, strict=True)):
        if number in alike:
            rejected.append({"what": clip.entity, "reason": f"looks like a held-out clip: {alike[number]}"})
            continue
        start = kept[-1].start + kept[-1].count if kept else 0
        kept.append(replace(clip, start=start))
        kept_frames.append(pixels)
    return kept, kept_frames


def _own_families(
    clips: Sequence[Clip], frames: Sequence[Pixels], known: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """Families of the entities that the corpus does not draw: one first character, or the same look."""
    rows = [number for number, clip in enumerate(clips) if clip.entity not in known]
    if not rows:
        return {}
    entities = [clips[number].entity for number in rows]
    groups = UnionFind(entities)
    first: dict[str, str] = {}
    for entity in entities:
        groups.join(first.setdefault(entity.split("-")[0], entity), entity)
    pixels = np.stack([frames[number][0] for number in rows])
    for entity, family in families(entities, [""] * len(entities), pixels).items():
        groups.join(entity, family)
    return {entity: groups.find(entity) for entity in entities}


def _alike(clips: Sequence[Clip], frames: Sequence[Pixels]) -> dict[int, str]:
    """Train clip, by its place -> entity of a held-out clip that begins with the same picture."""
    if not clips:
        return {}
    small = thumbnails(np.stack([pixels[0] for pixels in frames]), _COMPARED)
    held = [number for number, clip in enumerate(clips) if clip.split != "train"]
    found: dict[int, str] = {}
    for number, clip in enumerate(clips):
        if clip.split == "train" and held:
            distance = np.square(small[held] - small[number]).mean(1)
            if distance.min() < IDENTICAL:
                found[number] = clips[held[int(distance.argmin())]].entity
    return found


def manifest_facts(source: ClipSource, rejected: list[dict[str, str]]) -> dict[str, Any]:
    """What the manifest of clips says beside the clips.

    Args:
        source: the packages.
        rejected: with their reasons.
    """
    return {"packages": {package.name: package.version for package in source.packages}, "rejected": rejected}
