"""The default corpus: emoji sets from Iconify's npm packages, rendered from SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion.config import IconifyConfig
from rag_diffusion.corpus.captions import CAPTION_TEMPLATES, choose, describe
from rag_diffusion.corpus.emoji import (
    Annotation,
    EntityResolver,
    has_skin_tone,
    is_private,
    parse_annotations,
)
from rag_diffusion.corpus.rendering import in_processes
from rag_diffusion.engine.work import Engine
from rag_diffusion.errors import DataError
from rag_diffusion.progress import progress
from rag_diffusion.readers.icon_set import IconSet, read_set, svg_of
from rag_diffusion.readers.images import encode_png, render_svg
from rag_diffusion.readers.packages import Package, fetch_package, read_member
from rag_diffusion.types import Pair


@dataclass
class Rejections:
    """Counted rejections with their reasons, for the manifest."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, what: str, reason: str) -> None:
        """Record one rejected pair, `what`, and its `reason`."""
        self.rows.append({"what": what, "reason": reason})


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    icon_set: IconSet  # without its drawings, which would travel with each
    icon: Mapping[str, Any]
    name: str
    entity: str
    annotation: Annotation


@dataclass(frozen=True, kw_only=True)
class EmojiSources:
    """The emoji sets by style, what characters are called, and the packages' versions."""

    sets: Mapping[str, IconSet]
    annotations: Mapping[str, Annotation]
    packages: Mapping[str, str]


def load_sources(path: Path, cache: Path) -> EmojiSources:
    """Fetch and read the emoji sets of a source list.

    Args:
        path: the list, e.g. data/sources/iconify.yaml.
        cache: folder for package archives.

    Raises:
        DataError: a package cannot be had or is not what was pinned.
    """
    sources, annotations = yaml.safe_load(path.read_text(encoding="utf-8")), load_annotations(path, cache)
    sets = {
        row["style"]: _read_set(row, fetch_package(Package.parse(row), cache))
        for row in progress(sources["sets"], desc="fetching sets", unit="set")
    }
    packages = {row["package"]: str(row["version"]) for row in [*sources["sets"], sources["annotations"]]}
    return EmojiSources(sets=sets, annotations=annotations, packages=packages)


def load_annotations(path: Path, cache: Path) -> dict[str, Annotation]:
    """Fetch and read what characters are called: entity -> annotation.

    Args:
        path: the source list.
        cache: folder for package archives.

    Raises:
        DataError: the package cannot be had or is not what was pinned.
    """
    row = yaml.safe_load(path.read_text(encoding="utf-8"))["annotations"]
    return parse_annotations(read_member(fetch_package(Package.parse(row), cache), row["file"]))


def load_pairs(
    config: IconifyConfig, sources: EmojiSources, image_size: int, engine: Engine | None = None
) -> tuple[list[Pair], dict[str, Any]]:
    """Join, render and caption the emoji sets.

    Args:
        config: which groups are taken.
        sources: what was fetched.
        image_size: side of the rendered images in pixels.
        engine: whose workers render; None renders here.

    Returns:
        Pairs without family, split and duplicate group (empty strings), and facts for the manifest: `rejected`
        pairs with their reasons, `style_words`, and `kinds` (entity -> subgroup in words).
    """
    sets, annotations = sources.sets, sources.annotations
    rejections = Rejections()
    drawings = list(_select(sets, annotations, config, rejections))
    pairs = []
    with ThreadPoolExecutor(2) as pool:  # Pillow releases the interpreter lock, resvg does not
        render = partial(_render, size=image_size)
        rendered = pool.map(render, drawings) if engine is None else in_processes(render, drawings, engine)
        for drawing, pair in zip(
            drawings,
            progress(rendered, total=len(drawings), desc="rendering", unit="img"),
            strict=True,
        ):
            if isinstance(pair, Pair):
                pairs.append(pair)
            else:
                rejections.add(f"{drawing.icon_set.style}/{drawing.name}", f"does not render: {pair}")
    facts = {
        "rejected": rejections.rows,
        "style_words": {style: icon_set.words for style, icon_set in sets.items()},
        "kinds": {drawing.entity: _kind(drawing.annotation) for drawing in drawings},
        "packages": dict(sources.packages),
    }
    return pairs, facts


def _kind(annotation: Annotation) -> str:
    return annotation.subgroup.replace("-", " ").strip()


def _read_set(row: Mapping[str, Any], archive: Path) -> IconSet:
    return read_set(lambda name: read_member(archive, name), style=row["style"], words=row["words"])


def _select(
    sets: Mapping[str, IconSet],
    annotations: Mapping[str, Annotation],
    config: IconifyConfig,
    rejections: Rejections,
) -> Iterator[_Drawing]:
    """Drawings that are wanted; one a set and entity, the shortest name first."""
    resolver = EntityResolver(sets)
    for style, icon_set in sets.items():
        taken, card = set[str](), replace(icon_set, icons={}, chars={}, aliases={})
        for name in sorted(icon_set.icons, key=lambda name: (len(name), name)):
            entity = resolver.resolve(style, name)
            annotation = annotations.get(entity) if entity else None
            if entity is None or annotation is None:
                reason = (
                    "name resolves to no code point" if entity is None else f"code point has no annotation: {entity}"
                )
                rejections.add(f"{style}/{name}", reason)
            elif _wanted(entity, annotation, config):
                if entity in taken:
                    rejections.add(f"{style}/{name}", f"second drawing in this set: {entity}")
                else:
                    taken.add(entity)
                    yield _Drawing(
                        icon_set=card, icon=icon_set.icons[name], name=name, entity=entity, annotation=annotation
                    )


def _wanted(entity: str, annotation: Annotation, config: IconifyConfig) -> bool:
    if is_private(entity) or annotation.group.startswith("extras"):
        return False
    return (
        (config.skin_tones or not has_skin_tone(entity))
        and (config.flags or annotation.group != "flags")
        and (config.people or annotation.group not in ("people-body", "component"))
    )


def _render(drawing: _Drawing, size: int) -> Pair | str:
    """The pair, or the reason why there is none."""
    icon_set, annotation = drawing.icon_set, drawing.annotation
    svg = svg_of(icon_set, drawing.icon)
    what = f"{icon_set.style}/{drawing.name}"
    try:
        image = render_svg(svg, size, what)
    except DataError as error:
        return str(error)
    template = choose(CAPTION_TEMPLATES, f"{what}:caption")
    return Pair(
        pair_id=f"iconify/{what}",
        source=f"iconify/{icon_set.style}",
        entity=drawing.entity,
        family="",
        category=annotation.group,
        style=icon_set.style,
        title=annotation.title,
        caption=describe(template, title=annotation.title, style=icon_set.words, kind=_kind(annotation)),
        licence=icon_set.licence,
        attribution=icon_set.attribution,
        image=encode_png(image),
        original=svg,
        split="",
        duplicate_group="",
    )
