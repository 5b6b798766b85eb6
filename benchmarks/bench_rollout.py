"""What a frame of a clip costs, and what memory a long one takes; benchmarks/*-rollout.md.

python benchmarks/bench_rollout.py --root . --frames 64 --steps 8
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image, ImageDraw

from rag_diffusion.project import open_pipeline
from rag_diffusion.sampling.clip_folder import ClipFolder
from rag_diffusion.sampling.clip_output import FORMS, encoded
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.rollout_settings import RolloutSettings

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def begin() -> Image.Image:
    """A face."""
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((48, 48, 208, 208), fill="#fdc500", outline="#7a5200", width=8)
    for left in (90, 144):
        pen.ellipse((left, 100, left + 22, 130), fill="black")
    pen.arc((90, 110, 166, 180), 20, 160, fill="black", width=8)
    return image


def measured(pipe: RetrievalPipeline, stages: int, settings: RolloutSettings, steps: int) -> dict[str, object]:
    """Processor seconds a frame, resident megabytes by frame, and what the files of the clip take."""
    options = {"num_inference_steps": steps}
    rollout = Rollout(pipe, "a smiling face laughs", begin(), settings, seed=7, stages=stages, options=options)
    seconds, memory = list[float](), dict[int, float]()
    with TemporaryDirectory() as scratch:
        folder = ClipFolder(Path(scratch) / "clip")
        folder.begin(rollout)
        before = time.process_time()
        for frame in rollout.run(folder):
            seconds.append(time.process_time() - before)
            if frame.number in (4, 8, 16, 24, 32, 48, 64):
                memory[frame.number] = round(resident(), 1)
            before = time.process_time()
        files = {}
        for form in FORMS:
            before = time.process_time()
            content = encoded(form, (frame.pixels for frame in folder.frames()))
            files[form] = [len(content), round(time.process_time() - before, 3)]
    drawn = sorted(seconds[4:]) or sorted(seconds[1:])  # from the fifth frame on each looks at as many
    return {"seconds": round(drawn[len(drawn) // 2], 3), "megabytes": memory, "files": files}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--last", type=int, default=1)
    parser.add_argument("--retrieved", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pipe = open_pipeline(asked.root, str(asked.root / "data/base"))
    settings = RolloutSettings(num_frames=asked.frames, num_last=asked.last, num_retrieved=asked.retrieved, num_pairs=0)
    print(json.dumps(vars(asked) | measured(pipe, asked.stages, settings, asked.steps), default=str))


if __name__ == "__main__":
    main()
