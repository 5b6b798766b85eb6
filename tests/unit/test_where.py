"""`--where`: which pairs may be retrieved."""

from __future__ import annotations

import pytest

from rag_diffusion.errors import ConfigError
from rag_diffusion.store.filters import Filter
from rag_diffusion.where import parse_where


def test_columns_and_values_make_a_filter() -> None:
    where = parse_where(["class=food", "licence=CC0-1.0", "class = drink", "source=corpus", "split=train"])
    assert where == Filter(sources=("corpus",), classes=("food", "drink"), licences=("CC0-1.0",), splits=("train",))
    assert parse_where([]) == Filter()


def test_what_is_given_takes_the_place_of_that_column_in_params_yaml() -> None:
    base = Filter(classes=("food",), licences=("MIT",))
    assert parse_where(["class=animals"], base) == Filter(classes=("animals",), licences=("MIT",))


@pytest.mark.parametrize("text", ["food", "colour=red", "class=", "=food"])
def test_anything_else_is_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(ConfigError, match=r"where: expected class=NAME, source=NAME, licence=NAME, split=NAME, got"):
        parse_where([text])
