"""A short training run as a program, for launchers: everything comes from a folder, the losses go back into it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from rag_diffusion.config import TrainConfig
from rag_diffusion.models.load import load_generator
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.data import Batch, Batches
from rag_diffusion.training.loop import train
from rag_diffusion.training.processes import open_accelerator

LAST = int(os.environ.get("STOP_AFTER", "-1"))
KILLED = int(os.environ.get("KILL_NODE_AFTER", "-1"))


class Stopping(Batches):
    """Ends the program when a step is asked for, or kills the last process and its launcher, as a node dies."""

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        if step == LAST:
            raise SystemExit("stopped as asked")
        if step == KILLED and os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().parts(step, rows)


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    facts = json.loads((folder / "facts.json").read_text())
    changes = json.loads(sys.argv[3])
    shard = changes.pop("shard", False)
    config = TrainConfig.model_validate(facts["config"] | changes)
    accelerator = open_accelerator("cpu")
    generator = load_generator(folder / "model", accelerator.device)
    batches = Stopping(Corpus.open(facts["corpus"]), facts["neighbors"], config, 3, seed=0)
    result = train(
        generator, batches, config, seed=0, scratch=folder / name, tracker=NullTracker(), accelerator=accelerator,
        shard=shard,
    )  # fmt: skip
    if accelerator.is_main_process:
        found = {"losses": result.losses, "processes": result.processes}
        (folder / f"{name}.json").write_text(json.dumps(found))
