"""The search that the documentation shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.knowledge.bases import ROOT, items, make_base, write_params
from tests.unit.serving.served import make_encoder


def test_the_search_that_the_documentation_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/knowledge-base.md").read_text("utf-8"), flags=re.DOTALL)
    (shown,) = (block for block in blocks if "Query(" in block)
    write_params(tmp_path)
    make_base(tmp_path, make_encoder(tmp_path)).add("mine", items(range(12), licence="CC0-1.0"))
    monkeypatch.chdir(tmp_path)
    exec(shown, {})
    *hits, trouble = capsys.readouterr().out.splitlines()
    assert trouble == "()"
    assert [line.count("mine/") for line in hits] == [3, 3]
