"""Which part of a text is the caption: its first line, all of it, or the line of one language."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from rag_diffusion.errors import ConfigError, DataError

FIRST_LINE, ALL = "first-line", "all"
LONG = 300  # characters; a longer text is rarely what one picture shows
MANY_SCRIPTS = 3
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})?")
_MARKED = re.compile(rf"\s*(?:\[({_LANGUAGE.pattern})\]|({_LANGUAGE.pattern})\s*[:=|\t])\s*(\S.*)")
_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK"}  # written together


def check_choice(how: str) -> str:
    """`how` itself, which says what part of a text is the caption, see `choose`.

    Raises:
        ConfigError: it is none of the choices.
    """
    if how not in (FIRST_LINE, ALL) and not _LANGUAGE.fullmatch(how):
        raise ConfigError(f"caption: expected {FIRST_LINE}, {ALL} or a language such as en, got {how!r}")
    return how


def choose(text: str, how: str) -> str:
    """The caption in a text.

    Args:
        text: as it stood in its file.
        how: `first-line`, `all`, or a language, whose line begins with its name as in `en: a cat`, `[en] a cat`.

    Raises:
        DataError: no line is of that language; the reason stands before the colon.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if how == ALL or not lines:
        return text
    marked = [match for line in lines if (match := _MARKED.fullmatch(line))]
    if how == FIRST_LINE:
        return marked[0][5] if len(marked) == len(lines) > 1 else lines[0]
    for match in marked:
        if (match[1] or match[3]).lower().replace("_", "-") == how.lower().replace("_", "-"):
            return match[5]
    raise DataError(f"no caption in {how}: expected a line that begins with {how!r}, got {lines[0][:60]!r}")


def scripts(text: str) -> set[str]:
    """The scripts of the letters of a `text`, by their Unicode names; those that are written together count once."""
    names = {re.split("[ -]", unicodedata.name(char, ""))[0] for char in set(text) if char.isalpha()}
    return {_ONE_SCRIPT.get(name, name) for name in names if name}


def with_article(title: str) -> str:
    """A `title` with its article, `apple` -> `an apple`; plurals and names have none."""
    first = title.split()[0]
    last = title.split()[-1]
    if first[0].isupper() or not first[0].isalpha() or (last.endswith("s") and not last.endswith("ss")):
        return title
    return f"{'an' if first[0].lower() in 'aeiou' else 'a'} {title}"


@dataclass(kw_only=True)
class Doubts:
    """Captions that are hardly what one picture shows, counted while they come in.

    Attributes:
        seen: captions.
        counts: long ones, those of many scripts, and those of which only a part was taken.
        first: an example of each.
    """

    seen: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def look(self, name: str, text: str, caption: str) -> None:
        """Take note of a caption.

        Args:
            name: of its item.
            text: as it stood in its file.
            caption: what was chosen of the text.
        """
        self.seen += 1
        kinds = [f"longer than {LONG} characters"] * (len(caption) > LONG)
        kinds += ["of several scripts"] * (len(scripts(caption)) >= MANY_SCRIPTS)
        kinds += ["one line of several"] * (caption.strip() != text.strip())
        for kind in kinds:
            self.counts[kind] += 1
            self.first.setdefault(kind, f"{name}: {caption[:60]!r}")

    def sentences(self) -> list[str]:
        """One sentence for each kind, with an example and what to do."""
        return [
            f"{count} of {self.seen} captions are {kind}, e.g. {self.first[kind]}; if that is not meant, choose "
            f"another part of the texts: caption {FIRST_LINE}, {ALL} or a language such as en"
            for kind, count in self.counts.items()
        ]
