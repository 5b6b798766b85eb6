from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from itertools import count

import pytest

from rag_diffusion import progress as module
from rag_diffusion.progress import Progress, duration, listening, progress, reporting_to_dagster


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets by hand."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_ten_seconds_with_rate_and_remaining_time(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in progress(range(40), desc="render", unit="image"):
        clock[0] += 0.5

    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "render: 20/40 image (50%), 2.0 image/s, 10.0 s left",
        "render: 40/40 image (100%), 2.0 image/s, 0.0 s left",
        "render: 40/40 image (100%), 2.0 image/s, done in 20.0 s",
    ]


def test_unknown_total_shows_count_and_rate_alone(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    for item in progress(count(), desc="read", unit="pair"):
        clock[0] += 4.0
        if item == 3:
            break

    assert capfd.readouterr().err.splitlines()[0] == "read: 3 pair, 4.0 s/pair"


def test_resumed_items_count_as_done_but_not_for_the_rate(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(total=100, desc="train", unit="step", initial=80) as bar:
        clock[0] += 10.0
        bar.note("loss 0.5")
        bar.update(10)

    first, last = capfd.readouterr().err.splitlines()
    assert first == "train: 90/100 step (90%), 1.0 step/s, 10.0 s left, loss 0.5"
    assert last == "train: 90/100 step (90%), 1.0 step/s, done in 10.0 s, loss 0.5"


def test_an_error_inside_is_told_as_stopped(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="boom"), Progress(total=3, desc="train"):
        raise ValueError("boom")

    assert "stopped after" in capfd.readouterr().err


def test_listeners_hear_every_line_only_while_they_listen(clock: list[float]) -> None:
    heard: list[str] = []
    with listening(heard.append), Progress(total=1, desc="train") as bar:
        bar.update()
    with Progress(total=1, desc="other"):
        pass

    assert [line.split(":")[0] for line in heard] == ["train"]


def test_outside_of_dagster_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_PIPES_CONTEXT", raising=False)
    with reporting_to_dagster():
        assert module._listeners == []


@pytest.mark.parametrize("columns", [100, 0])
def test_a_terminal_gets_a_bar_with_rate_and_remaining_time(columns: int) -> None:
    code = (
        "import time\nfrom rag_diffusion.progress import progress\n"
        "for _ in progress(range(4), desc='render', unit='image'): time.sleep(0.15)"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the terminal's end
            pass
        assert process.wait() == 0
    os.close(ours)

    text = shown.decode()
    assert text.count("\r") > 2
    assert re.search(r"render:.*4/4 \[00:00<00:00,.*image/s", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.94, "59.9 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration_reads_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
