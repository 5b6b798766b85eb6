"""Families of entities that must not be torn apart, and their split into train / validation / test."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import SplitConfig
from rag_diffusion.corpus.captions import stable_hash
from rag_diffusion.corpus.duplicates import UnionFind, close_pairs, thumbnails
from rag_diffusion.errors import DataError

FAMILY_THRESHOLD = 0.004  # mean squared difference of 16 px thumbnails of one style
MIN_STYLES = 6  # an entity that stands in so many styles can be a test entity
MAX_TEST_FAMILY = 8  # entities; a larger family (plain faces, clocks) is too alike to test recognition with
_SALTS = 2000
# Entities that are one drawing with small changes: (name, pattern over code points).
CURATED = (
    ("clock-faces", re.compile(r"1f55[0-9a-f]|1f56[0-7]")),
    ("keycaps", re.compile(r"(00)?(2[3a]|3[0-9])-20e3|1f51f")),
    ("moons", re.compile(r"1f31[1-9a-d]")),
    (
        "circles-and-squares",
        re.compile(r"26a[ab]|1f53[45]|1f7e[0-9a-b]|2b1[bc]|25[af][abcde]|1f53[2367]|25fb|25fc"),
    ),
    ("hearts", re.compile(r"2764|1f49[3-9a-f]|1f5a4|1f90[de]|1f9e1|1fa7[567]|2763|1f48[cf]")),
    ("zodiac", re.compile(r"264[89a-f]|265[0-3]|26ce")),
    ("arrows", re.compile(r"2b0[5-7]|219[4-9]|21a[9a]|27a1|293[45]")),
    ("dice-cards", re.compile(r"2660|2663|2665|2666")),
)


def families(entities: Sequence[str], styles: Sequence[str], pixels: Pixels) -> dict[str, str]:
    """Join entities that are near-identical in one style, or stand in one curated list.

    Args:
        entities: n entities.
        styles: n styles.
        pixels: (n, H, W, 3) uint8.

    Returns:
        Entity -> family, which is the smallest entity in it.
    """
    groups = UnionFind(entities)
    for _, pattern in CURATED:
        members = sorted({entity for entity in entities if pattern.fullmatch(entity)})
        for member in members[1:]:
            groups.join(members[0], member)
    for style in sorted(set(styles)):
        rows = [row for row, other in enumerate(styles) if other == style]
        for a, b in close_pairs(thumbnails(pixels[rows], 16), FAMILY_THRESHOLD):
            groups.join(entities[rows[a]], entities[rows[b]])
    return {entity: groups.find(entity) for entity in entities}


def assign_splits(
    family_of: Mapping[str, str],
    num_styles: Mapping[str, int],
    config: SplitConfig,
    *,
    enforce: bool,
    named: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], int]:
    """Split families by a stable hash, but for those whose split the source names.

    A family of more than `MAX_TEST_FAMILY` entities goes to train. The hash is salted with the smallest
    number for which validation and test get as many entities that stand in
    `MIN_STYLES` styles as `config` asks for, so that the split depends on the corpus alone.

    Args:
        family_of: entity -> family.
        num_styles: entity -> number of styles it is drawn in.
        config: shares and minimums.
        enforce: whether the minimums hold; otherwise each split only has to hold a family.
        named: family -> split, see `named_splits`; a split that none of them is in is filled out of train.

    Returns:
        Entity -> split, and the salt.

    Raises:
        DataError: no salt reaches the minimums.
    """
    names, named = sorted(set(family_of.values())), named or {}
    named_at_all = set(named.values())
    size, well_drawn = Counter(family_of.values()), Counter[str]()
    for entity, family in family_of.items():
        well_drawn[family] += num_styles[entity] >= MIN_STYLES
    least = {"validation": config.min_validation_entities, "test": config.min_test_entities} if enforce else {}
    for salt in range(_SALTS):
        splits = {
            name: "train" if size[name] > MAX_TEST_FAMILY else split_by_hash(name, salt, config) for name in names
        }
        splits |= {name: split for name, split in named.items() if split != "train" or splits[name] in named_at_all}
        count, held = Counter[str](), Counter(splits.values())
        for name in names:
            count[splits[name]] += well_drawn[name]
        if all(count[split] >= number for split, number in least.items()) and (len(held) == 3 or len(names) < 10):
            return {entity: splits[family] for entity, family in family_of.items()}, salt
    raise DataError(
        f"split: expected {least} entities drawn in {MIN_STYLES} or more styles, but {len(names)} "
        f"families "
        f"({sum(well_drawn.values())} such entities) do not hold them; lower corpus.split.min_*_entities"
    )


def named_splits(families: Sequence[str], splits: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The splits that a source names, of whole families.

    Args:
        families: n families.
        splits: n splits, empty where the source names none.

    Returns:
        Family -> split, and a sentence for each thing that keeps a named split from being taken: a family in several
        ones, since what is held out must not be trained on, or no family in train.
    """
    splits_of: dict[str, set[str]] = defaultdict(set)
    for family, split in zip(families, splits, strict=True):
        if split:
            splits_of[family].add(split)
    torn = sorted(family for family, several in splits_of.items() if len(several) > 1)
    named = {family: next(iter(only)) for family, only in splits_of.items() if len(only) == 1}
    doubts = [
        f"{len(torn)} of {len(set(families))} families of like things stand in several splits of the source, e.g. "
        f"{torn[0]!r}; they were split anew, so that what is held out is never trained on"
    ] if torn else []  # fmt: skip
    if named and "train" not in named.values():
        doubts.append(f"the source names {', '.join(sorted(set(named.values())))} and no train; all was split anew")
        named = {}
    return named, doubts


def split_by_hash(family: str, salt: int, config: SplitConfig) -> str:
    """The split of a family by itself.

    Args:
        family: its name, which is hashed.
        salt: what the hash is salted with.
        config: shares of the splits.

    Returns:
        train, validation or test.
    """
    place = stable_hash(f"{salt}:{family}") / 2**64
    if place < config.test:
        return "test"
    return "validation" if place < config.test + config.validation else "train"


def styles_per_entity(entities: Sequence[str], styles: Sequence[str]) -> dict[str, int]:
    """Entity -> number of different styles, of n pairs whose `entities` and `styles` are given."""
    members: dict[str, set[str]] = defaultdict(set)
    for entity, style in zip(entities, styles, strict=True):
        members[entity].add(style)
    return {entity: len(some) for entity, some in members.items()}
