from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from rag_diffusion.errors import ConfigError
from rag_diffusion.retrieval.explain import Explained, Explanation
from rag_diffusion.terminal.kb_search import as_html, as_text, search_text

HIT = Explained(
    pair_id="folder/<b>.png",
    caption="a <script>alert(1)</script> \u202efox\x1b[31m",
    licence="CC0 & more",
    attribution='"me"',
    score=0.75,
    parts={"bm25": 0.5, "text_to_text": 0.25},
    words={"fox": 2.5},
)
FOUND = Explanation(query="<i>fox</i>", words={"fox": 2.5}, unknown=("<u>",), fusion="sum", hits=(HIT,))


def test_a_page_holds_its_pictures_and_escapes_every_text() -> None:
    page = as_html(FOUND, {HIT.pair_id: b"png bytes"})
    assert f"data:image/png;base64,{base64.b64encode(b'png bytes').decode()}" in page
    for tag in ("<script", "<i>", "<u>", "<b>.png"):
        assert tag not in page
    assert "&lt;script&gt;" in page
    assert "CC0 &amp; more, &quot;me&quot;" in page
    assert "fox 2.50" in page
    assert not {"\u202e", "\x1b"} & set(page)
    assert page.count("0.5000") == page.count("0.2500") == page.count("0.7500") == 1
    assert "http" not in page


def test_a_terminal_gets_no_control_characters() -> None:
    line = as_text(FOUND)
    assert line.startswith("0.7500  folder/<b>.png  a <script>")
    assert line.isprintable()
    assert "no hits" in as_text(replace(FOUND, hits=()))


@pytest.mark.parametrize(
    ("query", "top_k", "page", "message"),
    [
        (" ", 3, None, "expected a text to look for, got an empty one"),
        ("fox", 0, None, "expected at least 1, got 0"),
        ("fox", 3, "none/page.html", "expected a file in a folder that exists"),
    ],
)
def test_wrong_wishes_are_refused(tmp_path: Path, query: str, top_k: int, page: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search_text(tmp_path, query, top_k=top_k, page=None if page is None else tmp_path / page)
