"""One's own folder of SVG files as a style that is never trained on: its drawings are neighbors and targets alone."""

from __future__ import annotations

import re
from pathlib import Path

from rag_diffusion.config import OwnConfig
from rag_diffusion.corpus.icon_sets import Drawing
from rag_diffusion.corpus.manners import Reading, without_number
from rag_diffusion.corpus.wide_source import SetCard, Tally
from rag_diffusion.errors import ConfigError

_MAX_BYTES = 1 << 20  # of one file
_STYLE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def read_own(config: OwnConfig, root: Path, tally: Tally) -> tuple[list[Drawing], SetCard]:
    """Drawings of a folder.

    Args:
        config: the folder, and what is said of all its drawings.
        root: project root, base of a relative path.
        tally: where rejections are counted.

    Returns:
        The drawings, by name, and whose they are.

    Raises:
        ConfigError: no folder, no SVG file in it, or a style that cannot stand in pair ids.
    """
    folder = root / config.path
    files = sorted(folder.glob("**/*.svg")) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"corpus.iconify.own.path: expected a folder with SVG files, got {config.path!r}; correct it")
    if not _STYLE.fullmatch(config.style):
        raise ConfigError(f"corpus.iconify.own.style: expected small letters and digits, got {config.style!r}")
    drawings: dict[str, Drawing] = {}
    for file in files:
        name = _name(file)
        reason = _why_not(file, name, drawings)
        if reason:
            tally.add(f"{config.style}/{file.relative_to(folder).as_posix()}", reason)
        else:
            drawings[name] = _drawing(config.style, name, file.read_text(encoding="utf-8"))
    card = SetCard(words=config.words, licence=config.licence, attribution=config.attribution, house=config.style)
    return list(drawings.values()), card


def _name(file: Path) -> str:
    """`Coffee Cup.svg` -> `coffee-cup`."""
    return "-".join(re.findall(r"[^\W_]+", file.stem.lower()))


def _why_not(file: Path, name: str, taken: dict[str, Drawing]) -> str:
    if not name:
        return "file name without a word"
    if name in taken:
        return "second file of a name"
    content = file.read_bytes()
    if len(content) > _MAX_BYTES:
        return f"file too large: {len(content)} bytes, at most {_MAX_BYTES}"
    try:
        content.decode()
    except UnicodeDecodeError:
        return "no UTF-8 text"
    return ""


def _drawing(style: str, name: str, svg: str) -> Drawing:
    return Drawing(
        prefix=style,
        name=name,
        aliases=(),
        code_points=(),
        reading=Reading(entity=without_number(name), stem=name, manner="", words="", size=0),
        category="own",
        svg=svg,
        monochrome="currentColor" in svg,
    )
