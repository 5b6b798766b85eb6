from __future__ import annotations

from typing import Any

import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.knowledge.remote.results import KnnResult, parse_indices, parse_results
from rag_diffusion.readers.records import Rejection

GOOD = {"id": 7, "similarity": 0.5, "caption": "a cat", "url": "http://a/b.png"}


def parsed(**change: Any) -> KnnResult | Rejection:
    return next(iter(parse_results([GOOD | change], 10)))


def test_a_good_entry_is_taken_with_what_it_tells() -> None:
    assert parsed(licence="CC0", title="cat", height=5) == KnnResult(
        key=7, similarity=0.5, caption="a cat", url="http://a/b.png", image="", words={"licence": "CC0", "title": "cat"}
    )
    assert parsed(license="MIT") == parsed(licence="MIT")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"id": None}, "malformed id"),
        ({"id": "7"}, "malformed id"),
        ({"id": True}, "malformed id"),
        ({"id": 2**70}, "malformed id"),
        ({"similarity": "high"}, "malformed similarity"),
        ({"similarity": float("nan")}, "malformed similarity"),
        ({"similarity": float("inf")}, "malformed similarity"),
        ({"similarity": 10**400}, "malformed similarity"),
        ({"caption": None}, "malformed caption"),
        ({"caption": " \n"}, "malformed caption"),
        ({"caption": ["a"]}, "malformed caption"),
        ({"caption": "a" * 100_001}, "malformed caption"),
        ({"caption": "\ud800"}, "malformed text"),
        ({"url": None}, "malformed url"),
        ({"url": "javascript:alert(1)"}, "malformed url"),
        ({"url": "file:///etc/passwd"}, "malformed url"),
        ({"url": {"a": 1}}, "malformed url"),
        ({"url": "", "image": 5}, "malformed url"),
    ],
)
def test_a_malformed_entry_is_rejected_by_itself(change: dict[str, Any], kind: str) -> None:
    bad, good = parse_results([GOOD | change, GOOD | {"id": 8}], 10)

    assert isinstance(bad, Rejection)
    assert bad.kind == kind
    assert isinstance(good, KnnResult)


@pytest.mark.parametrize("entry", [None, 5, "a", []])
def test_an_entry_that_is_no_object_is_rejected(entry: Any) -> None:
    (bad,) = parse_results([entry], 10)

    assert isinstance(bad, Rejection)
    assert bad.kind == "malformed result"


def test_an_id_twice_and_more_results_than_asked_for_are_counted() -> None:
    found = list(parse_results([GOOD, GOOD, GOOD | {"id": 8}, GOOD | {"id": 9}], 3))

    assert [type(one).__name__ for one in found] == ["KnnResult", "Rejection", "KnnResult", "Rejection"]
    assert [one.kind for one in found if isinstance(one, Rejection)] == ["malformed id", "too many"]


@pytest.mark.parametrize("answer", [None, 5, "ok", {"message": "Internal Server Error"}, {"error": "no such index"}])
def test_an_answer_that_is_no_list_is_an_error_with_its_message(answer: Any) -> None:
    with pytest.raises(DataError, match="expected a list of results") as caught:
        list(parse_results(answer, 10))

    if isinstance(answer, dict):
        assert next(iter(answer.values())) in str(caught.value)


@pytest.mark.parametrize("answer", [None, [], {}, [1], [""], "all"])
def test_index_names_that_are_none_are_an_error(answer: Any) -> None:
    with pytest.raises(DataError, match="index names"):
        parse_indices(answer)
