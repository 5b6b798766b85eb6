"""One batch cut into parts, or shared among processes, is one batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.load import save_generator
from rag_diffusion.models.trainable import train_parts
from rag_diffusion.pipeline.runner import run_stage
from rag_diffusion.training.data import Batches
from tests.unit.training.trainer import StopAt, Trainer

PROGRAM = Path(__file__).with_name("launched.py")
ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def losses(result: Any) -> torch.Tensor:
    return torch.tensor([loss for _, loss in result.losses])


def test_a_batch_in_two_parts_gives_the_losses_of_one(trainer: Trainer, tmp_path: Path) -> None:
    whole = losses(trainer(tmp_path / "one", accumulation=1, optimizer="adamw"))
    trainer.reset()
    parts = losses(trainer(tmp_path / "two", accumulation=2, optimizer="adamw"))
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_parts_are_the_rows_of_the_whole_batch(trainer: Trainer) -> None:
    moving = trainer.config.model_copy(
        update={"augment_targets": 0.5, "augment_neighbors": 0.5, "augment_beside": 0.3, "augment_shift": 3}
    )
    batches = Batches(trainer.corpus, trainer.neighbors["train"], moving, 3, seed=0)
    whole, parts = batches[4], batches.parts(4, [slice(0, 4), slice(4, 8)])
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert parts[0].captions + parts[1].captions == whole.captions
    for number in range(8):
        part = parts[number // 4].neighbors
        shown, expected = (
            [batch.images[row] for row, weight in zip(batch.rows[row_of], batch.weights[row_of], strict=True) if weight]
            for batch, row_of in ((part, number % 4), (whole.neighbors, number))
        )
        assert len(shown) == len(expected)
        assert all(torch.equal(one, other) for one, other in zip(shown, expected, strict=True))


def test_a_batch_that_cannot_be_shared_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a multiple of processes \* accumulation = 1 \* 3, got 8"):
        trainer(tmp_path, accumulation=3)


@pytest.mark.parametrize("parts", ["all", "neighbors", "lora"])
def test_a_run_cut_in_two_continues_bit_for_bit(trainer: Trainer, tmp_path: Path, parts: Any) -> None:
    changes: dict[str, Any] = {"accumulation": 2, "augment_neighbors": 0.5, "batch_size": 4}
    begun = trainer.weights()
    adapt(trainer, parts)
    whole = trainer(tmp_path / "whole", **changes).losses
    expected = trainer.weights()
    adapt(trainer, parts)
    config = trainer.config.model_copy(update=changes)
    stopping = StopAt(trainer.corpus, trainer.neighbors["train"], config, 4)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", batches=stopping, **changes)
    trainer.unload()
    adapt(trainer, parts)
    assert trainer(tmp_path / "cut", **changes).losses == whole
    again = trainer.weights()
    assert again.keys() == begun.keys(), "adapters are merged"
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    moved = {name for name, value in expected.items() if not torch.equal(begun[name], value)}
    assert moved
    if parts == "neighbors":
        assert all(name.startswith("neighbor_attention.") for name in moved)


def adapt(trainer: Trainer, parts: Any) -> None:
    """The weights of the beginning, as a new process has them, and what of them is trained."""
    trainer.reset()
    torch.manual_seed(0)
    train_parts(trainer.generator.unet, parts, 4)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(trainer: Trainer, tmp_path: Path) -> None:
    save_generator_of(trainer, tmp_path)
    one = launched(ONE, tmp_path, "one", {})
    two = launched(TWO, tmp_path, "two", {})
    both = launched(TWO, tmp_path, "both", {"accumulation": 2})
    assert (one["processes"], two["processes"], both["processes"]) == (1, 2, 2)
    assert len(one["losses"]) == 8
    for found in (two, both):
        torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(one["losses"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one(trainer: Trainer, tmp_path: Path) -> None:
    save_generator_of(trainer, tmp_path)
    whole = launched(ONE, tmp_path, "whole", {"drop_neighbors": 0.9, "drop_both": 0.1, "checkpoint_every": 4})
    launched(TWO, tmp_path, "cut", {"drop_neighbors": 0.9, "drop_both": 0.1, "checkpoint_every": 4}, stop=True)
    rest = launched(ONE, tmp_path, "cut", {"drop_neighbors": 0.9, "drop_both": 0.1, "checkpoint_every": 4})
    torch.testing.assert_close(torch.tensor(rest["losses"]), torch.tensor(whole["losses"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_nodes_give_the_losses_of_one_process_also_after_one_was_killed(trainer: Trainer, tmp_path: Path) -> None:
    save_generator_of(trainer, tmp_path)
    changes = {"checkpoint_every": 2}
    one = launched(ONE, tmp_path, "one", changes)
    codes = [code for code, _ in on_two_nodes(tmp_path, "two", changes, KILL_NODE_AFTER="6")]
    assert 0 not in codes, "the node that is left ends as well"
    assert json.loads((tmp_path / "two" / "meta.json").read_text())["step"] in (2, 4, 6)
    for code, said in on_two_nodes(tmp_path, "two", changes):
        assert code == 0, said
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["processes"] == 2
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_weights_in_shares_give_the_losses_and_weights_of_one_process(trainer: Trainer, tmp_path: Path) -> None:
    save_generator_of(trainer, tmp_path)
    changes = {"checkpoint_every": 4, "drop_neighbors": 0.0, "drop_both": 0.0}
    one = launched(ONE, tmp_path, "one", changes)
    launched(TWO, tmp_path, "shared", changes | {"shard": True}, stop=True)
    shared = launched(TWO, tmp_path, "shared", changes | {"shard": True})
    torch.testing.assert_close(torch.tensor(shared["losses"]), torch.tensor(one["losses"]), atol=1e-4, rtol=0)
    mine, others = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "shared"))
    assert mine.keys() == others.keys()
    for name, value in mine.items():
        torch.testing.assert_close(others[name], value, atol=2e-3, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"optimizer": "adamw"}, "expected several processes .*, got one; start it by `accelerate launch`")],
)
def test_weights_are_shared_out_among_several_processes_alone(
    trainer: Trainer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"shard: {message}"):
        trainer(tmp_path, shard=True, **changes)


def test_a_stage_that_cannot_use_several_processes_refuses_them(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((project_root / "params.yaml").read_text())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="sample: expected one process, got several, which it cannot use"):
        run_stage("sample", tmp_path)


def save_generator_of(trainer: Trainer, folder: Path) -> None:
    (folder / "model").mkdir()
    save_generator(trainer.generator, folder / "model")
    config = trainer.config.model_dump() | {"steps": 8, "optimizer": "adamw", "drop_neighbors": 0.3}
    facts = {"config": config, "corpus": str(trainer.corpus.path), "neighbors": trainer.neighbors["train"]}
    (folder / "facts.json").write_text(json.dumps(facts))


def launched(command: list[str], folder: Path, name: str, changes: dict[str, Any], stop: bool = False) -> Any:
    """Run the program; with `stop` its time is over after four steps."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    if stop:
        environment["STOP_AFTER"] = "4"
    done = subprocess.run(
        [*command, str(PROGRAM), str(folder), name, json.dumps(changes)],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    if stop:
        assert "stopped as asked" in done.stderr
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / f"{name}.json").read_text())


def on_two_nodes(folder: Path, name: str, changes: dict[str, Any], **environment: str) -> list[tuple[int, str]]:
    """Run the program by two launchers that meet, as on two machines; exit codes, and what was said at the end."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        port = there.getsockname()[1]
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "static", "--master-addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *meet, "--master-port", str(port), "--node-rank"]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | environment
    nodes = [
        subprocess.Popen(
            [*command, str(rank), str(PROGRAM), str(folder), name, json.dumps(changes)],
            env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=200)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    return [(node.returncode, words[-3000:]) for node, words in zip(nodes, said, strict=True)]
