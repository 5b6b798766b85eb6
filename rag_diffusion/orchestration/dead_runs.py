"""Runs whose process was killed: Dagster calls them started for ever, and they keep their slot of a pool.

Dagster notes the process of each run in its log. Where this machine has no such process any more, the run is told to
have failed and its slots are free again.
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import psutil

_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_SLACK = 2.0  # seconds between the start of a process and what is noted of it, at most


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs of `instance` without a process as failed and free their slots; returns the runs' ids."""
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=_AT_WORK)) if _is_dead(instance, run.run_id)]
    for run in dead:
        instance.report_run_failed(run, "its process is gone: it was killed, or the machine was; materialize again")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def _is_dead(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether all processes that are known of a run are gone; one of which none is known may still begin."""
    alive = [_lives(pid, noted) for pid, noted in _processes(instance, run_id)]
    return bool(alive) and not any(alive)


def _processes(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[int, float]]:
    """Process ids, and when each was noted in seconds since 1970."""
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = record.dagster_event
        pid = None if event is None else event.engine_event_data.metadata.get("pid")
        if pid is not None and str(pid.value).isdigit():
            yield int(str(pid.value)), record.timestamp


def _lives(pid: int, noted: float) -> bool:
    """Whether that process runs, and not a later one of the same number."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= noted + _SLACK)
    except psutil.Error:
        return False
