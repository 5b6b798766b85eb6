"""Words of a text in any script.

English keeps its short way: lower case, no accents, no function words, no plural -s. Elsewhere a combining mark is a
letter's own and stays (the vowels of Devanagari, the tones of Thai, the voicing of kana), but for accents of Latin
and Greek, and for the optional vowel points of Hebrew and Arabic, which most writers leave out. Scripts without spaces
become overlapping pairs of characters.

Source: character bigrams: Nie, Gao, Zhang, Zhou, "On the use of words and n-grams for Chinese information retrieval"
(2000), as in Lucene's CJKBigramFilter; folding: Unicode TR 30 and Lucene's ASCIIFoldingFilter, ArabicNormalizer.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from itertools import pairwise

WORD = re.compile(r"[^\W_]+")
ARTICLES = ("a", "an", "is", "it", "its", "that", "the", "their", "them", "this")
PREPOSITIONS = ("and", "as", "at", "by", "for", "from", "in", "into", "of", "on", "or", "to", "with")
STOP_WORDS = frozenset({*ARTICLES, *PREPOSITIONS})
LONGEST = 64  # characters of a word that count
LONGEST_QUERY = 10_000  # characters of a query that count

# Letters that NFKD leaves whole, but that one who lacks the key writes otherwise; the alifs and yas of Arabic.
_FOLD = str.maketrans({
    "ı": "i", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ħ": "h", "æ": "ae", "œ": "oe", "þ": "th",
    "ٱ": "ا", "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ـ": None,
})  # fmt: skip
# First code points of blocks whose letters lose every mark, or keep it; the letter before a mark decides.
_PLAIN, _KEEPS, _POINTED = "plain", "keeps", "pointed"
_BLOCKS = (
    (0, _PLAIN), (0x400, _KEEPS), (0x590, _POINTED), (0x780, _KEEPS), (0x1E00, _PLAIN), (0x2E80, _KEEPS),
    (0x1F000, _PLAIN), (0x20000, _KEEPS),
)  # fmt: skip
_STARTS = [start for start, _ in _BLOCKS]
_STRESS = frozenset("\u0300\u0301\u0308")  # of Cyrillic: a dictionary's stress, and the dots of yo
# Thai, Lao, Myanmar, Khmer; kana; ideographs and their extensions: written without spaces
_RUN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"[{_RUN}\U00020000-\U0003ffff]+")


def tokenize(text: str) -> list[str]:
    """Words of `text`, as the lexical indexes know them.

    A text of function words alone keeps them, so that no document is empty without need. Control characters and null
    bytes end a word; marks of direction and soft hyphens do not. Time and memory grow with the length of the text.
    """
    if text.isascii():
        words = WORD.findall(text.lower())
    else:
        words = [part for word in _words(_plain(text)) for part in _parts(word)]
    words = [word if len(word) <= LONGEST else word[:LONGEST] for word in words]
    return [_singular(word) for word in words if word not in STOP_WORDS] or words


def readable(text: str) -> str:
    """A query `text` as every part can read it: lone surrogates replaced, a long one with single spaces and cut."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 1000 else " ".join(text.split())[:LONGEST_QUERY]


def _plain(text: str) -> str:
    """Case folded, compatibility forms replaced, marks dropped where they are no letters, the rest composed."""
    folded = unicodedata.normalize("NFKD", text.casefold()).translate(_FOLD)
    kept: list[str] = []
    rule, cyrillic = _PLAIN, False
    for char in folded:
        kind = unicodedata.category(char)
        if kind == "Cf" or "\ufe00" <= char <= "\ufe0f":  # marks of direction, joiners, soft hyphens; emoji or text
            continue
        if kind[0] != "M":
            rule, cyrillic = _BLOCKS[bisect_right(_STARTS, ord(char)) - 1][1], 0x400 <= ord(char) < 0x530
        elif rule is not _KEEPS or (cyrillic and char in _STRESS):
            continue
        kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept))


def _words(text: str) -> list[str]:
    """Runs of letters, digits and marks."""
    return "".join(char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in text).split()


def _parts(word: str) -> list[str]:
    """A word as it is, its stretches in scripts without spaces as pairs of characters."""
    parts, end = [], 0
    for run in _UNSPACED.finditer(word):
        parts += [word[end : run.start()], *_pairs(run.group())]
        end = run.end()
    return [part for part in (*parts, word[end:]) if part]


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of characters, each with its marks; one alone stays alone."""
    units: list[str] = []
    for char in run:
        if units and unicodedata.category(char)[0] == "M":
            units[-1] = (units[-1] + char)[:LONGEST]
        else:
            units.append(char)
    return [a + b for a, b in pairwise(units)] or units


def _singular(word: str) -> str:
    """Harman's S stemmer (1991): three rules, the first that matches."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")) and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")) and len(word) > 3:
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 3:
        return word[:-1]
    return word
