"""`class=food`: which pairs may be retrieved, as commands (`--where`) and the page take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rag_diffusion.errors import ConfigError

if TYPE_CHECKING:  # commands that filter nothing load no tables
    from rag_diffusion.store.filters import Filter

WHERE_HELP = "class=NAME, source=NAME, licence=NAME or split=NAME: only such pairs; may be repeated."
_FIELDS = {"class": "classes", "source": "sources", "licence": "licences", "split": "splits"}


def parse_where(texts: Sequence[str], base: Filter | None = None) -> Filter:
    """The filter of what was typed.

    Args:
        texts: each a column and a value, as `class=food`; several of one column let each of their values through.
        base: what holds for the columns that none of them names, of params.yaml; None is nothing.

    Raises:
        ConfigError: one is nothing of the kind.
    """
    from rag_diffusion.store.filters import Filter

    named: dict[str, list[str]] = {}
    for text in texts:
        column, sign, value = text.partition("=")
        if column.strip() not in _FIELDS or not sign or not value.strip():
            raise ConfigError(f"where: expected {', '.join(f'{name}=NAME' for name in _FIELDS)}, got {text!r}")
        named.setdefault(_FIELDS[column.strip()], []).append(value.strip())
    return replace(base or Filter(), **{name: tuple(values) for name, values in named.items()})
