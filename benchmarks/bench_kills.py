"""What twenty kills cost a `rag-diffusion kb add` of 2,000 photographs.

    python benchmarks/bench_kills.py PROJECT [--photos 2000] [--kills 20] [--side 1280]

PROJECT has an encoder (`dvc repro align`). One process adds the photographs undisturbed; then another data set of the
same ones is added by processes that are killed at random moments of their work, each soon after the one before, until
the last one ends. Work is what a process does from the moment it looks at what was kept before; starting Python and
loading the encoder, which every process does again, is told beside it. It is told in seconds of the clock, which other
work on the same cores lengthens, and of processor time. The hits of both data sets must agree in the end.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval.query import Query

ADD = """
import sys, time
import numpy as np
from rag_diffusion.knowledge.generations import Generations
staging = Generations.staging
def told(self, facts):
    self.encoder.images(np.zeros((1, 64, 64, 3), dtype=np.uint8))
    self.encoder.texts(["nothing"])
    print("work", time.process_time(), flush=True)
    return staging(self, facts)
Generations.staging = told
from rag_diffusion.terminal.app import app
app(["kb", "add", sys.argv[1], sys.argv[2], "--licence", "CC0-1.0", "--attribution", "nobody"])
"""


@dataclass
class Runs:
    """Seconds of all processes that added one data set.

    Attributes:
        starting, working: until what was kept is looked at, and from then on.
        processor: of `working`, time of all cores.
        kills: processes that were killed.
    """

    starting: float = 0.0
    working: float = 0.0
    processor: float = 0.0
    kills: int = 0

    def add(self, project: Path, name: str, photos: Path, kill_after: float | None = None) -> bool:
        """One process; whether it came to its end."""
        command = [sys.executable, "-c", ADD, name, str(photos)]
        start, used = time.monotonic(), _processor_time()
        process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = next((line for line in iter(process.stdout.readline, "") if line.startswith("work ")), "")
        if not told:
            error = process.communicate()[1]
            assert "there is a data set" in error, error  # killed after all was done
            return True
        begun = time.monotonic()
        self.starting += begun - start
        try:
            said = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.kills += 1
        else:
            assert process.returncode == 0, said
        self.working += time.monotonic() - begun
        self.processor += _processor_time() - used - float(told.split()[1])
        return process.returncode == 0


def _processor_time() -> float:
    """Seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_photos(folder: Path, count: int, side: int) -> None:
    """JPEG files of side x 3/4 side with captions beside them; smooth noise compresses as photographs do."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        if number % 2:
            picture = picture.filter(ImageFilter.EDGE_ENHANCE)
        picture.save(folder / f"{number:05d}.jpg", quality=90)
        (folder / f"{number:05d}.txt").write_text(f"photograph number {number} of a {rng.integers(1000)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--side", type=int, default=1280)
    options = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        make_photos(photos, options.photos, options.side)
        print(f"{options.photos} photographs, {sum(p.stat().st_size for p in photos.glob('*.jpg')) / 1e6:.0f} MB")
        undisturbed, killed = Runs(), Runs()
        undisturbed.add(options.project, "undisturbed", photos)
        mean = undisturbed.working / options.kills
        while killed.kills < options.kills:
            if killed.add(options.project, "killed", photos, chance.uniform(0, 2 * mean)):
                break
        else:
            killed.add(options.project, "killed", photos)
    base = KnowledgeBase.open(options.project)
    queries = [f"a photograph of a {number}" for number in range(20)]
    hits = [
        [[(pair.split("/", 1)[1], round(score, 5)) for pair, score in zip(one.pair_ids, one.scores, strict=True)]
         for one in base.search(Query(queries, top_k=10, sets=[name])).hits]
        for name in ("undisturbed", "killed")
    ]  # fmt: skip
    assert hits[0] == hits[1], "other hits after the kills"
    print(json.dumps({"undisturbed": vars(undisturbed), "killed": vars(killed)}))
    clock, processor = killed.working / undisturbed.working, killed.processor / undisturbed.processor
    print(f"work with kills / without: {clock:.2f} by the clock, {processor:.2f} in processor time")


if __name__ == "__main__":
    main()
