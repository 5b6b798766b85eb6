"""Run one stage through `dvc repro` in a Dagster step, and stop all of it when it is cancelled."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster_pipes import (
    PipesContext,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    PipesMappingParamsLoader,
)

from orchestration.metadata import stage_metadata
from orchestration.processes import end_group, environment
from orchestration.project import Project

SECONDS_BETWEEN_TRIES = 10.0
SECONDS_OF_BUSY = 6 * 3600.0
LINES_KEPT = 40


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `dvc repro` did: its exit code and the end of what it printed."""

    code: int
    tail: str
    ran: bool

    @property
    def busy(self) -> bool:
        """Whether another DVC process works on the same paths."""
        return self.code != 0 and "is busy, it is being blocked by" in self.tail


def reproduce(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult[None]:
    """Bring the asset's stage up to date; DVC decides whether it runs, is restored or is skipped.

    Raises:
        dagster.Failure: the stage failed; the description has the end of its output.
    """
    stage = project.stages[stage_name(context.asset_key)]
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        variables = session.get_bootstrap_env_vars()
        outcome = _repro_when_free(context, project.root, stage.name, variables)
        if not outcome.ran and outcome.code == 0:
            _speak_for_stage(variables, f"{stage.name}: nothing it depends on has changed, DVC kept its result")
    if outcome.code != 0:
        raise dg.Failure(f"dvc repro {stage.name} ended with exit code {outcome.code}:\n{outcome.tail}")
    version = project.data_version(stage.name)
    return dg.MaterializeResult(
        metadata={"ran": outcome.ran, **stage_metadata(project.root, stage)},
        data_version=dg.DataVersion(version) if version else None,
    )


def stage_name(key: dg.AssetKey) -> str:
    """The stage of an asset: `AssetKey(["stage", "item"])` is `stage@item`."""
    return "@".join(key.path)


def asset_key(stage: str) -> dg.AssetKey:
    """The asset of a stage, the other way round."""
    return dg.AssetKey(stage.split("@"))


def _repro_when_free(
    context: dg.AssetExecutionContext, root: Path, stage: str, variables: Mapping[str, str]
) -> Outcome:
    """`dvc repro`, again and again while another DVC process holds the stage's paths."""
    give_up = time.monotonic() + SECONDS_OF_BUSY
    while True:
        outcome = repro(root, stage, variables)
        if not outcome.busy or time.monotonic() > give_up:
            return outcome
        context.log.info(f"{stage}: another DVC process is at work here; trying again")
        time.sleep(SECONDS_BETWEEN_TRIES)


def repro(root: Path, stage: str, variables: Mapping[str, str]) -> Outcome:
    """Run `dvc repro --single-item` in a process group of its own; any way out ends the group.

    Args:
        root: the DVC project.
        stage: its stage.
        variables: environment variables of the Pipes session.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage],
        cwd=root, env=environment() | dict(variables), start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    tail: deque[str] = deque(maxlen=LINES_KEPT)
    ran = False
    try:
        for line in process.stdout or ():
            sys.stderr.write(line)
            sys.stderr.flush()
            tail.append(line)
            ran = ran or line.startswith("Running stage")
        return Outcome(code=process.wait(), tail="".join(tail), ran=ran)
    finally:
        end_group(process)
        if process.stdout is not None:
            process.stdout.close()


def _speak_for_stage(variables: Mapping[str, str], message: str) -> None:
    """Say over the Pipes session what a stage that did not run cannot say itself."""
    loader = PipesMappingParamsLoader(variables)
    with PipesContext(loader, PipesDefaultContextLoader(), PipesDefaultMessageWriter()) as pipes:
        pipes.log.info(message)
