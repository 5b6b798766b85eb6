"""Cards of repositories: a README.md with metadata at its head, and licences by count.

Source: Hugging Face's dataset and model card metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rag_diffusion.sampling.credit import terms_of

_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
LARGEST = "10M<n<100M"
_KNOWN = (
    "apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "unlicense", "ofl-1.1", "bsd-3-clause", "gpl-3.0",
)  # fmt: skip


def size_category(count: int) -> str:
    """The category of `count` rows, as `1K<n<10K`."""
    return next((name for name, most in _SIZES if count < most), LARGEST)


def licence_metadata(counts: Mapping[str, int]) -> dict[str, Any]:
    """`license` of a card's metadata.

    Args:
        counts: pairs by licence.

    Returns:
        The one licence that all are under, by its name there; else `other`, and which ones they are.
    """
    if len(counts) == 1 and next(iter(counts)).lower() in _KNOWN:
        return {"license": next(iter(counts)).lower()}
    return {"license": "other", "license_name": "several" if len(counts) > 1 else "own", "license_link": "README.md"}


def licence_table(counts: Mapping[str, int]) -> str:
    """Pairs by licence and what each asks, as a table in Markdown; `counts` are pairs by licence."""
    rows = ["| licence | pairs | asks |", "|---|---|---|"]
    for licence, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        terms = terms_of(licence)
        asked = [
            words
            for held, words in (
                (terms.attribution, "name the author"),
                (terms.non_commercial, "no commercial use"),
                (terms.share_alike, "share under the same licence"),
                (terms.no_derivatives, "share nothing that is made from it"),
            )
            if held
        ]
        told = ", ".join(asked) or ("nothing" if terms.known else "unknown: ask")
        rows.append(f"| {_cell(licence) or 'none given'} | {count:,} | {told} |")
    return "\n".join(rows)


def card(metadata: Mapping[str, Any], text: str) -> str:
    """A card.

    Args:
        metadata: at its head.
        text: in Markdown.
    """
    head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{text.strip()}\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
