"""The smoke run: every stage with the smallest settings, as a DVC experiment in a folder of its own.

The workspace, its results and dvc.lock stay as they are; stages that nothing has changed for come from DVC's cache.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from rag_diffusion.orchestration.assets import PROJECT
from rag_diffusion.orchestration.processes import environment, run_shown
from rag_diffusion.orchestration.reproduce import LINES_KEPT
from rag_diffusion.origin import DAGSTER_RUN

SMALLEST: Mapping[str, object] = {
    "finetune.steps": 2,
    "finetune.batch_size": 6,
    "sample.num_inference_steps": 2,
    "sample.variants": "[none,retrieved]",
    "score.bootstrap_draws": 100,
}


def run_apart(root: Path, name: str, settings: Mapping[str, object], variables: Mapping[str, str]) -> str:
    """`dvc exp run --temp` with other parameters; the experiment is removed when it ends well.

    Args:
        root: the DVC project, in git with at least one commit.
        name: of the experiment.
        settings: parameters of params.yaml by dotted key.
        variables: environment variables besides those of this process.

    Returns:
        What it printed.

    Raises:
        dagster.Failure: a stage failed; the experiment, if there is one, is kept.
    """
    options = [word for key, value in settings.items() for word in ("-S", f"{key}={value}")]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *options]
    code, lines = run_shown(command, root, variables)
    if code:
        raise dg.Failure(f"dvc exp run ended with exit code {code}:\n{''.join(lines[-LINES_KEPT:])}")
    remove = [sys.executable, "-m", "dvc", "exp", "remove", name]
    subprocess.run(remove, cwd=root, env=environment(), check=True, capture_output=True)
    return "".join(lines)


@dg.op(description="dvc exp run --temp with the smallest settings")
def run_every_stage_small(context: dg.OpExecutionContext) -> None:
    """Nothing is left behind but the MLflow runs.

    Args:
        context: of the step; the experiment is named after its run.
    """
    run_apart(PROJECT.root, f"smoke-{context.run_id[:8]}", SMALLEST, {DAGSTER_RUN: context.run_id})


@dg.job(description="Every stage with the smallest settings, in a folder of its own; minutes, and nothing is changed")
def smoke() -> None:
    """Whether everything still works."""
    run_every_stage_small()
