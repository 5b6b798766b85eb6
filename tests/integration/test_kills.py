"""Processes that change a knowledge base, killed at random moments: the old state or the new one, and never another."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_diffusion.retrieval.query import Query
from tests.unit.knowledge.bases import ROOT, items, make_base

VERSIONS = {"old": range(256), "new": range(1000, 1200)}
PART = 64
CHANGE = f"""
import sys, time
from pathlib import Path
from rag_diffusion.knowledge import ingest
from tests.unit.knowledge.bases import TinyEncoder, items, make_base
ingest.PART_CANDIDATES = {PART}
ingest.PART_SECONDS = ingest.PART_SECONDS_AT_FIRST = 1e9

class Slow(TinyEncoder):
    def images(self, pixels):
        time.sleep(0.2)
        return super().images(pixels)

root, what = Path(sys.argv[1]), sys.argv[2]
encoder = Slow()
print("ready", flush=True)
base = make_base(root, encoder)
if what == "remove":
    base.remove("photos")
else:
    base.add("photos", items({{"old": range(256), "new": range(1000, 1200)}}[what]), replace=True)
print("embedded", encoder.num_images, flush=True)
"""


def start(root: Path, what: str) -> subprocess.Popen[str]:
    """A process that is about to change the data set `photos`."""
    command = [sys.executable, "-c", CHANGE, str(root), what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> int:
    """How many images it embedded."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return int(out.split()[-1])


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def state(root: Path) -> str:
    """Which version there is, every byte of it checked; the other data set is whole as well."""
    base = make_base(root)
    found = base.retriever().corpus
    assert base.info("kept").num_pairs == 20
    for name in base.catalogue.names():
        base.catalogue.check(name)
    if "photos" not in base.catalogue.names():
        assert len(found) == 20
        return "none"
    version = "old" if base.info("photos").num_pairs == len(VERSIONS["old"]) else "new"
    expected = sorted([*(f"kept/{one.name}" for one in items(range(20))), *names(version)])
    assert found.ids(range(len(found))) == expected
    hits = base.search(Query(["a red fox"], top_k=len(found))).hits[0]
    assert set(hits.pair_ids) == set(expected)
    return version


def names(version: str) -> list[str]:
    return [f"photos/{one.name}" for one in items(VERSIONS[version])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_kill_leaves_the_old_state_or_the_new_one(tmp_path: Path, kills: int) -> None:
    make_base(tmp_path).add("kept", items(range(20)))
    rng, now, seen = random.Random(kills), "none", set()
    for number in range(kills):
        what = ("new", "remove", "old")[number % 3] if now != "none" else "old"
        target = "none" if what == "remove" else what
        process = start(tmp_path, what)
        time.sleep(rng.uniform(0, 0.02 if what == "remove" else 0.7))
        kill(process)
        found = state(tmp_path)
        assert found in (now, target)
        seen.add((what, found == target))
        if found != target:
            end(start(tmp_path, what))
            assert state(tmp_path) == target
        now = target
    building = list((tmp_path / "data" / "kb" / ".building").glob("*"))
    assert building == []
    assert any(not done for _, done in seen)  # some were killed before their end


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_build_that_was_killed_goes_on(tmp_path: Path) -> None:
    make_base(tmp_path).add("kept", items(range(20)))
    process = start(tmp_path, "old")
    second = tmp_path / "data" / "kb" / ".building" / "photos" / "00001.json"
    while not second.exists():
        assert process.poll() is None
        time.sleep(0.01)
    kill(process)
    assert state(tmp_path) == "none"
    assert end(start(tmp_path, "old")) <= len(VERSIONS["old"]) - 2 * PART
    assert state(tmp_path) == "old"
