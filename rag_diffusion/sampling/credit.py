"""What the licences of neighbors ask of whoever uses a picture, in words, and the line of credit to put beside it.

Whether a picture that looked at a drawing is a work derived from it is for a court to say. What is said here is on the
safe side: it takes each licence as if the picture were.

Source: SPDX licence list; the Creative Commons licences' own names say what they ask (BY, NC, SA, ND).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol

NO_LICENCE = "no licence given"
UNSPECIFIED = "unspecified"
FRAME = "rollout"  # source of a frame that was drawn: it owes what its own neighbors ask, and nothing without a licence
_FREE = re.compile(
    r"\b(CC0|CC-PDM|PDDL|PUBLIC-DOMAIN|UNLICENSE|WTFPL|0BSD|MIT-0|PDM)\b|^PD$|^PUBLICDOMAIN$", re.IGNORECASE
)
_NOTICE = re.compile(
    r"\b(MIT|ISC|BSD|APACHE|OFL|GPL|LGPL|AGPL|MPL|EPL|ZLIB|FAL|ODC-BY|ODBL|GFDL|BY|ATTRIBUTION)\b", re.IGNORECASE
)
_ALIKE = re.compile(r"\b(SA|SHAREALIKE|GPL|LGPL|AGPL|FAL|ODBL|GFDL)\b", re.IGNORECASE)
_NON_COMMERCIAL = re.compile(r"\b(NC|NON-?COMMERCIAL)\b", re.IGNORECASE)
_NO_DERIVATIVES = re.compile(r"\b(ND|NO-?DERIV\w*)\b", re.IGNORECASE)


class Credited(Protocol):
    """A pair that conditioned a picture: a `Source` of its provenance, or a `Neighbor`."""

    @property
    def pair_id(self) -> str:
        """Its id."""
        ...

    @property
    def source(self) -> str:
        """Where it came from."""
        ...

    @property
    def licence(self) -> str:
        """An SPDX identifier, or words."""
        ...

    @property
    def attribution(self) -> str:
        """Its author."""
        ...


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a licence asks.

    Attributes:
        known: whether anything could be told from it.
        attribution: the author is to be named, or a notice kept.
        non_commercial: commercial use is forbidden.
        share_alike: what is derived is to be under the same licence.
        no_derivatives: nothing derived may be shared.
    """

    known: bool
    attribution: bool = False
    non_commercial: bool = False
    share_alike: bool = False
    no_derivatives: bool = False


def terms_of(licence: str) -> Terms:
    """What `licence` asks, an SPDX identifier, several joined by AND, or words.

    Examples:
        >>> from rag_diffusion.sampling.credit import terms_of
        >>> terms_of("CC-BY-NC-4.0").non_commercial, terms_of("CC0-1.0").attribution, terms_of("my own").known
        (True, False, False)
    """
    parts = [terms_of(part) for part in licence.split(" AND ")] if " AND " in licence else []
    if parts:
        return Terms(**{field.name: _joined(field.name, parts) for field in fields(Terms)})
    words = re.sub(r"[\s_]+", "-", licence.strip())
    if not words or words.lower() in (UNSPECIFIED, "unknown", "other", "none"):
        return Terms(known=False)
    if _FREE.search(words) and not _NON_COMMERCIAL.search(words):
        return Terms(known=True)
    terms = Terms(
        known=True,
        attribution=_NOTICE.search(words) is not None,
        non_commercial=_NON_COMMERCIAL.search(words) is not None,
        share_alike=_ALIKE.search(words) is not None,
        no_derivatives=_NO_DERIVATIVES.search(words) is not None,
    )
    return terms if terms != Terms(known=True) else Terms(known=False)


def credit(neighbors: Iterable[Credited]) -> list[str]:
    """What is owed for a picture, a sentence each: what is forbidden, what is asked, and the line of credit to use.

    Args:
        neighbors: what conditioned it.

    Returns:
        No sentence where there are no neighbors; the last one begins with `Credit:` and names each author and licence
        once.

    Examples:
        >>> from rag_diffusion import Neighbor
        >>> from rag_diffusion.sampling.credit import credit
        >>> credit([Neighbor(image="red.png", caption="a fox", licence="CC-BY-NC-4.0", attribution="Ada")])
        ['No commercial use: CC-BY-NC-4.0 (Ada).',
         'Name the author wherever the picture is shown: CC-BY-NC-4.0 (Ada).',
         'Credit: Ada (CC-BY-NC-4.0).']
    """
    counted = [one for one in neighbors if one.source != FRAME or one.licence]
    owed = dict.fromkeys((author_of(one), one.licence.strip()) for one in counted)
    if not owed:
        return []
    asked = [(terms_of(licence), f"{licence or NO_LICENCE} ({author})") for author, licence in owed]
    named = {
        "No commercial use": [name for terms, name in asked if terms.non_commercial],
        "No sharing of what is made from it": [name for terms, name in asked if terms.no_derivatives],
        "Share it under the same licence": [name for terms, name in asked if terms.share_alike],
        "Name the author wherever the picture is shown": [name for terms, name in asked if terms.attribution],
        "Licence unknown, ask before use": [name for terms, name in asked if not terms.known],
    }
    line = "; ".join(f"{author} ({licence or NO_LICENCE})" for author, licence in owed)
    return [*(f"{what}: {'; '.join(names)}." for what, names in named.items() if names), f"Credit: {line}."]


def _joined(name: str, parts: list[Terms]) -> bool:
    """What several licences ask together: all are known, or any asks for it."""
    asked = [getattr(part, name) for part in parts]
    return all(asked) if name == "known" else any(asked)


def author_of(one: Credited) -> str:
    """Whom to name for the pair `one`: its author, else where it came from."""
    named = "" if one.attribution.strip() == UNSPECIFIED else one.attribution.strip()
    return named or one.source or one.pair_id or "an unnamed author"
