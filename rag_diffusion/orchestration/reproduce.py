"""Run one stage through `dvc repro` in a Dagster step, and stop all of it when it is cancelled."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster_pipes import (
    PipesContext,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    PipesMappingParamsLoader,
)

from rag_diffusion.orchestration.mend import mend
from rag_diffusion.orchestration.metadata import stage_metadata
from rag_diffusion.orchestration.processes import run_shown
from rag_diffusion.orchestration.project import EXTERNAL, Project
from rag_diffusion.origin import DAGSTER_RUN

_SECONDS_BETWEEN_TRIES = 10.0
_TRIES_WHEN_KILLED = 2
_SECONDS_OF_BUSY = 6 * 3600.0
LINES_KEPT = 40
_EXIT = re.compile(r"exited with (-?\d+)")
_SIGNALS = 128  # a shell adds the number of the signal to this


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

    @property
    def killed(self) -> bool:
        """Whether a signal ended the stage or DVC, as the system does when memory is short."""
        codes = _EXIT.findall(self.tail)
        code = int(codes[-1]) if codes and self.code > 0 else self.code
        return code < 0 or code > _SIGNALS


def reproduce(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult[None]:
    """Bring the asset's stage up to date; DVC decides whether it runs, is restored or is skipped.

    A stage that a signal killed is started again and goes on at its checkpoint. There is no retry policy, which would
    start one again that a user has cancelled.

    Args:
        context: of the step.
        project: as it was when the definitions were loaded.

    Returns:
        The metadata and version of the outs.

    Raises:
        dagster.Failure: something that it reads is not there, or the stage failed; the description says what to
            materialize first, or has the end of its output.
    """
    stage = project.stages[stage_name(context.asset_key)]
    if missing := project.missing(stage.name):
        raise dg.Failure(_what_first(stage.name, missing))
    outcome = _run(context, project, stage.name)
    if outcome.code != 0:
        failure = dg.Failure(f"dvc repro {stage.name} ended with exit code {outcome.code}:\n{outcome.tail}")
        if outcome.killed:
            raise dg.RetryRequested(max_retries=_TRIES_WHEN_KILLED, seconds_to_wait=5) from failure
        raise failure
    version = project.data_version(stage.name)
    return dg.MaterializeResult(
        metadata={"ran": outcome.ran, **stage_metadata(project.root, stage)},
        data_version=dg.DataVersion(version) if version else None,
    )


def _run(context: dg.AssetExecutionContext, project: Project, stage: str) -> Outcome:
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        variables = {**session.get_bootstrap_env_vars(), DAGSTER_RUN: context.run_id}
        outcome = _repro_when_free(context, project.root, stage, variables)
        if not outcome.ran and outcome.code == 0:
            _speak_for_stage(variables, f"{stage}: nothing it depends on has changed, DVC kept its result")
    return outcome


def _what_first(stage: str, missing: Mapping[str, Sequence[str]]) -> str:
    expected = ", ".join(path for paths in missing.values() for path in paths)
    stages = [name for name in missing if name not in EXTERNAL]
    tracked = [EXTERNAL[name] for name in missing if name in EXTERNAL]
    ways = [f"materialize {', '.join(stages)} first, or fetch it with `dvc pull`"] if stages else []
    ways += [f"restore {', '.join(tracked)} with git"] if tracked else []
    return f"{stage}: expected {expected}, found none; {'; '.join(ways)}"


def stage_name(key: dg.AssetKey) -> str:
    """The stage of the asset of a `key`: `AssetKey(["stage", "item"])` is `stage@item`."""
    return "@".join(key.path)


def asset_key(stage: str) -> dg.AssetKey:
    """The key of the asset of a `stage`, the other way round."""
    return dg.AssetKey(stage.split("@"))


def _repro_when_free(
    context: dg.AssetExecutionContext, root: Path, stage: str, variables: Mapping[str, str]
) -> Outcome:
    """`dvc repro`, again and again while another DVC process holds the stage's paths."""
    give_up = time.monotonic() + _SECONDS_OF_BUSY
    while True:
        outcome = repro(root, stage, variables)
        if not outcome.busy or time.monotonic() > give_up:
            return outcome
        context.log.info(f"{stage}: another DVC process is at work here; trying again")
        time.sleep(_SECONDS_BETWEEN_TRIES)


def repro(root: Path, stage: str, variables: Mapping[str, str]) -> Outcome:
    """Run `dvc repro --single-item` in a process group of its own; any way out ends the group.

    Args:
        root: the DVC project.
        stage: its stage.
        variables: environment variables of the Pipes session.
    """
    mend(root)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    code, lines = run_shown(command, root, variables)
    ran = any(line.startswith("Running stage") for line in lines)
    return Outcome(code=code, tail="".join(lines[-LINES_KEPT:]), ran=ran)


def _speak_for_stage(variables: Mapping[str, str], message: str) -> None:
    """Say over the Pipes session what a stage that did not run cannot say itself."""
    loader = PipesMappingParamsLoader(variables)
    with PipesContext(loader, PipesDefaultContextLoader(), PipesDefaultMessageWriter()) as pipes:
        pipes.log.info(message)
