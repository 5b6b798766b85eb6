"""What each drawing of the wide corpus shows: an entity of the emoji corpus, or the name that several sets have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rag_diffusion.corpus.emoji import Annotation, EntityResolver
from rag_diffusion.corpus.held_out import EntityNames, HeldOutMatch, HeldOutNames, words_of
from rag_diffusion.corpus.icon_sets import Drawing
from rag_diffusion.corpus.wide_pairs import JoinedDrawing
from rag_diffusion.corpus.wide_source import SetCard, Tally, WideSource
from rag_diffusion.readers.icon_set import IconSet

OWN_NAME = "name:"  # begins the entities that are no emoji
_RARE_TAG = 2  # entities that may share a tag which is as good as a name
_NO_THINGS = ("people-body", "component", "flags", "extras-openmoji", "extras-unicode")
_HELD = "test"  # split of drawings that may not be trained on though their entity is
_COMMON = 2  # names of sets that hold a word before it counts as one


@dataclass(frozen=True, kw_only=True)
class EmojiEntity:
    """What is known of an entity of the emoji corpus."""

    title: str
    family: str
    split: str


def called_names(
    emoji: Mapping[str, EmojiEntity],
    sets: Mapping[str, IconSet],
    annotations: Mapping[str, Annotation],
    synonyms: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> dict[str, EntityNames]:
    """What entities of the emoji corpus are called: titles, names in every set, aliases, synonyms and rare tags.

    Args:
        emoji: entities by their code points.
        sets: emoji sets by style.
        annotations: of OpenMoji, by code points.
        synonyms: more names, by code points and kind.
    """
    resolver = EntityResolver(sets)
    names: dict[str, set[str]] = defaultdict(set)
    for style, icon_set in sets.items():
        for name in {*icon_set.icons, *icon_set.aliases, *icon_set.chars.values()}:
            names[resolver.resolve(style, name) or ""].add(name)
    tags = Counter(tag for row in annotations.values() if row.group not in _NO_THINGS for tag in set(row.tags))
    called = {}
    for entity, known in emoji.items():
        rare = [tag for tag in annotations[entity].tags if tags[tag] <= _RARE_TAG]
        more = synonyms.get(known.title, {})
        called[entity] = EntityNames(
            full=(known.title, *sorted(names[entity])),
            also=more.get("names", ()),
            hints=(*rare, *more.get("exact", ())),
        )
    return called


def place(
    drawings: Sequence[Drawing],
    known: Mapping[str, EmojiEntity],
    called: Mapping[str, EntityNames],
    weak_words: frozenset[str],
    untrained: str = "",
) -> list[JoinedDrawing]:
    """Say of each drawing what it shows and where it may be used.

    Args:
        drawings: of all sets.
        known: entities of the emoji corpus.
        called: what they are called.
        weak_words: words that do not tell one thing from another.
        untrained: a set none of whose drawings may be trained on.

    Returns:
        The drawings in their order, each with what it shows.
    """
    names = {entity: called[entity] for entity in called if known[entity].split != "train"}
    held_out = HeldOutNames(names, weak_words, _vocabulary(drawings, called))
    trained: dict[str, str] = {}
    for entity in sorted((name for name in called if known[name].split == "train"), reverse=True):
        trained |= {"".join(words_of(name)): entity for name in called[entity].full}
    titles = _titles(drawings)
    twins: dict[str, str] = {}
    placed = []
    for drawing in drawings:
        match, found_by = _held_out_match(drawing, held_out)
        held = drawing.prefix == untrained and not match
        trains = "" if held or match else trained.get("".join(words_of(drawing.reading.entity)), "")
        entity = match.entity if match and match.exact else trains
        emoji, title = known.get(match.entity if match else entity), titles[_key(drawing)]
        placed.append(
            JoinedDrawing(
                drawing=drawing,
                entity=entity or OWN_NAME + title,
                title=known[entity].title if entity else title.replace("-", " "),
                family=emoji.family if emoji else OWN_NAME + title,
                split=_HELD if held else emoji.split if emoji else "train",
                twin=twins.setdefault(drawing.svg, drawing.where),
                found_by=found_by,
                alone=bool(match and match.alone),
            )
        )
    return placed


def _held_out_match(drawing: Drawing, held_out: HeldOutNames) -> tuple[HeldOutMatch | None, str]:
    """Held-out entity that a drawing shows, and which check found it."""
    reading = drawing.reading
    points = held_out.by_code_point((reading.entity, reading.stem, drawing.name, *drawing.aliases), drawing.code_points)
    if points:
        return HeldOutMatch(entity=points, exact=True, alone=True), "code_point"
    words = held_out.by_words((reading.entity, reading.stem, *drawing.aliases))
    return words, "words" if words else ""


def _key(drawing: Drawing) -> str:
    """Words in any order: `cup-coffee` is `coffee-cup`."""
    return "-".join(sorted(drawing.reading.entity.split("-")))


def _titles(drawings: Iterable[Drawing]) -> dict[str, str]:
    """The order of words that most drawings have."""
    orders: dict[str, Counter[str]] = defaultdict(Counter)
    for drawing in drawings:
        orders[_key(drawing)][drawing.reading.entity] += 1
    return {key: min(counts, key=lambda name: (-counts[name], name)) for key, counts in orders.items()}


def _vocabulary(drawings: Iterable[Drawing], called: Mapping[str, EntityNames]) -> set[str]:
    names = {(drawing.prefix, drawing.reading.entity) for drawing in drawings}
    counts = Counter(word for _, name in names for word in set(words_of(name)))
    known = {word for names in called.values() for name in (*names.full, *names.also) for word in words_of(name)}
    return known | {word for word, count in counts.items() if count >= _COMMON}


def several_hands(
    placed: Sequence[JoinedDrawing], cards: Mapping[str, SetCard], source: WideSource, own: str, tally: Tally
) -> list[JoinedDrawing]:
    """Drawings of entities that several hands have drawn; those of the emoji corpus and of one's own set always.

    Args:
        placed: drawings with their entities.
        cards: whose each set is, by prefix.
        source: how many hands are enough.
        own: prefix of one's own set.
        tally: gets what is left out.
    """
    num_drawings: Counter[str] = Counter(joined.entity for joined in placed)
    houses: dict[str, set[str]] = defaultdict(set)
    for joined in placed:
        houses[joined.entity].add(cards[joined.drawing.prefix].house)
    kept = []
    for joined in placed:
        entity = joined.entity
        few = num_drawings[entity] < source.least_drawings or len(houses[entity]) < source.least_houses
        if few and entity.startswith(OWN_NAME) and joined.drawing.prefix != own:
            tally.add(joined.drawing.where, "name with too few drawings")
        else:
            kept.append(joined)
    return kept
