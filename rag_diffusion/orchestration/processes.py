"""Processes in groups of their own, so that nothing they started outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SECONDS_TO_STOP = 15.0


def environment() -> dict[str, str]:
    """The environment of this process, the virtual one's commands first, telemetry off."""
    commands = str(Path(sys.executable).parent)
    path = os.pathsep.join([commands, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def run_shown(command: Sequence[str], root: Path, variables: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a command in a group of its own and show what it prints as it comes; any way out ends the group.

    Args:
        command: its words.
        root: where it runs.
        variables: environment variables besides those of this process.

    Returns:
        Its exit code, and the lines that it printed.
    """
    process = subprocess.Popen(
        command, cwd=root, env=environment() | dict(variables), start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines: list[str] = []
    try:
        for line in process.stdout or ():
            sys.stderr.write(line)
            sys.stderr.flush()
            lines.append(line)
        return process.wait(), lines
    finally:
        end_group(process)
        if process.stdout is not None:
            process.stdout.close()


def end_group(
    process: subprocess.Popen[str],
    stops: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
) -> None:
    """Send one signal after the other to what is left of a process's group, with time to end.

    Args:
        process: the group's leader, started with `start_new_session=True`.
        stops: the signals; each group member has `_SECONDS_TO_STOP` before the next one.
    """
    for stop in stops:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, stop)
            _wait(process)


def _wait(process: subprocess.Popen[str]) -> None:
    """Give the group time to end; an empty group raises ProcessLookupError."""
    give_up = time.monotonic() + _SECONDS_TO_STOP
    while time.monotonic() < give_up:
        process.poll()
        os.killpg(process.pid, 0)
        time.sleep(0.05)
