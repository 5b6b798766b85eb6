"""`kb restore` beside processes that read and write the same data set."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rag_diffusion.errors import BusyError, ConfigError
from rag_diffusion.knowledge.snapshot import put_back, take, versioning
from rag_diffusion.knowledge.versions import note
from rag_diffusion.layout import SNAPSHOTS
from rag_diffusion.retrieval.query import Query
from rag_diffusion.store.manifest import Manifest
from tests.unit.knowledge.bases import ROOT, items, make_base
from tests.unit.serving.served import Client, make_encoder, open_base
from tests.unit.serving.served import items as served_items

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OLD, NEW = range(60), range(1000, 1090)
READER = """
import hashlib, json, sys
import numpy as np
from pathlib import Path
from rag_diffusion.retrieval.query import Query
from tests.unit.knowledge.bases import make_base
base = make_base(Path(sys.argv[1]))
held = base.retriever()
for line in sys.stdin:
    retriever = held if line.strip() == "held" else base.retriever()
    corpus = retriever.corpus
    (hits,) = retriever.search(Query(["a red fox"], top_k=5)).hits
    rows = corpus.rows(hits.pair_ids)
    seen = {"hits": hits.pair_ids, "scores": hits.scores, "hash": corpus.versions[0].hash, "rows": len(corpus)}
    pixels = corpus.pixels(np.arange(len(corpus)))
    seen["pixels"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    print(json.dumps(seen), flush=True)
"""
WRITER = """
import sys, time
from pathlib import Path
from tests.unit.knowledge.bases import TinyEncoder, items, make_base

class Slow(TinyEncoder):
    def images(self, pixels):
        time.sleep(float(sys.argv[2]))
        return super().images(pixels)

base = make_base(Path(sys.argv[1]), Slow(), wait=120)
print("ready", flush=True)
for line in sys.stdin:
    base.add("mine", items(eval(line)), replace=True)
    print("written", flush=True)
"""
RESTORER = """
import os, sys, time
from pathlib import Path
from rag_diffusion.knowledge.snapshot import put_back
link = os.link
def slow_link(*names):
    link(*names)
    print("linked", flush=True)
    time.sleep(float(sys.argv[2]))
os.link = slow_link
print("ready", flush=True)
for line in sys.stdin:
    put_back(Path(sys.argv[1]), "mine", wait=120, force=True)
    print("restored", flush=True)
"""


class Process:
    """A script in another process that is told what to do line by line."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> Any:
        self.say(line)
        return json.loads(self.hear())

    def until(self, word: str) -> None:
        while (heard := self.hear()) != word:
            assert heard, f"ended before it said {word!r}"

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose data set `mine` is of `NEW`, with the files of a snapshot of `OLD`; both versions are known."""
    base = make_base(tmp_path)
    base.add("mine", items(NEW))
    _snapshot(tmp_path)
    new = (tmp_path / SNAPSHOTS / "mine.dvc").read_text()
    base.add("mine", items(OLD), replace=True)
    _snapshot(tmp_path)
    _git(tmp_path, "init", "-q")
    old = (tmp_path / SNAPSHOTS / "mine.dvc").read_text()
    for text in (new, old):
        (tmp_path / SNAPSHOTS / "mine.dvc").write_text(text)
        _git(tmp_path, "add", f"{SNAPSHOTS}/mine.dvc")
        _git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a")
    base.add("mine", items(NEW), replace=True)
    return tmp_path


def _git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True)


def _snapshot(root: Path) -> None:
    """The folder and its .dvc file as `kb snapshot` leaves them, without the cache."""
    manifest = take(root, "mine", wait=5)
    (root / SNAPSHOTS / "mine.dvc").write_text(f"outs:\n- md5: {manifest.hash[:32]}.dir\n  path: mine\n")
    note(root, manifest)


def state(root: Path) -> str:
    """Which version there is, every byte of it checked; never a third one."""
    base = make_base(root)
    base.catalogue.check("mine")
    corpus = base.retriever().corpus
    numbers = {len(OLD): OLD, len(NEW): NEW}[len(corpus)]
    assert corpus.ids(range(len(corpus))) == [f"mine/{item.name}" for item in items(numbers)]
    (hits,) = base.search(Query(["a red fox"], top_k=len(corpus))).hits
    assert set(hits.pair_ids) == set(corpus.ids(range(len(corpus))))
    return "old" if numbers == OLD else "new"


def generations(root: Path) -> Sequence[str]:
    return sorted(path.name for path in (root / "data" / "kb" / "mine").iterdir() if path.is_dir())


def test_a_reader_goes_on_with_its_version_and_finds_the_restored_one_afterwards(root: Path) -> None:
    reader = Process(READER, root)
    before = reader.ask("held")
    assert before["rows"] == len(NEW)
    manifest = put_back(root, "mine", wait=5)
    assert generations(root) == [f"{manifest.generation:05d}"], "the files that it reads have no name any more"
    assert reader.ask("held") == before, "hits, scores and every pixel"
    after = reader.ask("now")
    assert (after["rows"], after["hash"]) == (len(OLD), manifest.hash)
    assert reader.ask("held") == before
    reader.end()


def test_a_restore_waits_for_a_writer_and_does_not_lose_what_it_wrote(root: Path) -> None:
    """What is written while `kb restore` waits is in no snapshot: it was not there when the command began."""
    writer = Process(WRITER, root, 1.0)
    writer.until("ready")
    writer.say("range(2000, 2010)")
    building = root / "data" / "kb" / ".building" / "mine"
    while not building.exists():
        time.sleep(0.01)
    with pytest.raises(BusyError, match="expected to be the only one that writes 'mine'"):
        put_back(root, "mine", wait=0)
    with pytest.raises(ConfigError, match=r"\(10 pairs\) is in none; `rag-diffusion kb snapshot mine` keeps it"):
        put_back(root, "mine", wait=120)
    writer.until("written")
    writer.end()
    assert make_base(root).info("mine").num_pairs == 10
    put_back(root, "mine", wait=5, force=True)
    assert state(root) == "old"


def test_writers_readers_and_restores_at_once_never_mix(root: Path) -> None:
    writer, restorer, reader = Process(WRITER, root, 0), Process(RESTORER, root, 0), Process(READER, root)
    processes = (writer, restorer)
    for process in processes:
        process.until("ready")
    rounds, done = 6, threading.Event()

    def write() -> None:
        for _ in range(rounds):
            writer.say(repr(NEW))
            writer.until("written")

    def restore() -> None:
        while not done.is_set():
            restorer.say("go")
            restorer.until("restored")

    threads = [threading.Thread(target=write), threading.Thread(target=restore)]
    for thread in threads:
        thread.start()
    seen: dict[str, set[str]] = {}
    while threads[0].is_alive():
        answer = reader.ask("now")
        expected = {len(OLD): OLD, len(NEW): NEW}[answer["rows"]]
        assert set(answer["hits"]) <= {f"mine/{item.name}" for item in items(expected)}
        seen.setdefault(answer["hash"], set()).add(answer["pixels"])
    done.set()
    for thread in threads:
        thread.join()
    for process in (*processes, reader):
        process.end()
    assert all(len(pixels) == 1 for pixels in seen.values()), "one version, one set of images"
    put_back(root, "mine", wait=5, force=True)
    assert state(root) == "old"
    assert len(generations(root)) == 1


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_restore_that_is_killed_leaves_the_old_set(root: Path, kills: int) -> None:
    rng, files = random.Random(kills), len(Manifest.read(root / SNAPSHOTS / "mine" / "manifest.json").files)
    for _ in range(kills):
        restorer = Process(RESTORER, root, 0.05)
        restorer.until("ready")
        restorer.say("go")
        for _ in range(rng.randint(1, files)):
            restorer.until("linked")
        restorer.process.send_signal(signal.SIGKILL)
        restorer.process.wait()
        restorer.process.communicate()
        assert len(generations(root)) == 2, "half of one was there"
        assert state(root) == "new", "and opening the knowledge base has cleared it away"
        assert len(generations(root)) == 1
    put_back(root, "mine", wait=5)
    assert state(root) == "old"


def test_two_commands_that_change_snapshots_wait_for_each_other(root: Path) -> None:
    """Between `take` and `dvc add` another one would lay out other files under the same name."""
    command = [sys.executable, "-m", "rag_diffusion", "kb", "restore", "mine", "--wait", "0", "--root", str(root)]
    with versioning(root, wait=0):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another `kb snapshot` or `kb restore` did so" in done.stderr


def test_a_server_answers_all_the_time_and_with_the_restored_set_afterwards(tmp_path: Path, project_root: Path) -> None:
    shutil.copyfile(project_root / "params.yaml", tmp_path / "params.yaml")
    base = open_base(tmp_path, project_root, make_encoder(tmp_path))
    base.add("mine", served_items("noto"))
    take(tmp_path, "mine", wait=5)
    base.add("mine", served_items("twemoji"), replace=True)
    command = [sys.executable, "-m", "rag_diffusion", "kb", "serve", "--root", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        assert server.stderr is not None
        url = next(found[1] for line in server.stderr if (found := re.search(r"running on (http://\S+)", line)))
        client, seen = Client(url), list[str]()
        try:

            def captions() -> str:
                return " ".join(sorted(hit["caption"] for hit in client.knn(text="a red circle", num_images=5)))

            new, restored = captions(), threading.Event()

            def ask() -> None:
                while not restored.is_set():
                    seen.append(captions())

            asking = threading.Thread(target=ask)
            asking.start()
            put_back(tmp_path, "mine", wait=5, force=True)
            restored.set()
            asking.join()
            old = captions()
        finally:
            server.kill()
    assert old != new
    assert set(seen) <= {old, new}
    assert seen, "it was asked while the files changed"
