"""What Dagster watches: what DVC and `kb` did in a shell (on); new data and the clock, which start runs (off)."""

import dagster as dg

from rag_diffusion.knowledge.folders import MANIFEST
from rag_diffusion.layout import KB, SNAPSHOTS
from rag_diffusion.orchestration.assets import PROJECT, ROOT, STAGE_ASSETS
from rag_diffusion.orchestration.dead_runs import fail_dead_runs
from rag_diffusion.orchestration.project import EXTERNAL, Project, digest
from rag_diffusion.orchestration.sync import sync

_SECONDS_BETWEEN_TICKS = 30


SOURCES = "data/sources"

pipeline = dg.define_asset_job("pipeline", selection=dg.AssetSelection.assets(*STAGE_ASSETS))

every_night = dg.ScheduleDefinition(
    name="every_night",
    job=pipeline,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Bring everything up to date at three in the morning; DVC runs only what has changed.",
)


@dg.sensor(job=pipeline, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def new_data(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Runs everything when a file below data/sources comes, goes or changes; not for what lies there at first.

    Args:
        context: of the tick, with what the last one saw as its cursor.
    """
    files = sorted(path for path in (ROOT / SOURCES).rglob("*") if path.is_file())
    state = digest([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files])
    before = context.cursor
    context.update_cursor(state)
    if before is None or before == state:
        return dg.SkipReason(f"no news in {SOURCES}")
    return dg.RunRequest(run_key=state)


def _state() -> str:
    """Changes whenever dvc.lock, an external asset, a data set or its snapshot may have."""
    files = [ROOT / "dvc.lock", *(file for path in EXTERNAL.values() for file in sorted((ROOT / path).rglob("*")))]
    files += [*sorted((ROOT / KB).glob(f"*/{MANIFEST}")), *sorted((ROOT / SNAPSHOTS).glob("*.dvc"))]
    return digest([(str(file), file.stat().st_mtime_ns) for file in files if file.is_file()])


@dg.sensor(minimum_interval_seconds=_SECONDS_BETWEEN_TICKS, default_status=dg.DefaultSensorStatus.RUNNING)
def dvc_results(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Reports what DVC in a shell and `rag-diffusion kb` changed as materializations without a run, with checks.

    Args:
        context: of the tick, with what the last one saw as its cursor.
    """
    fail_dead_runs(context.instance)
    state = _state()
    if context.cursor == state:
        return dg.SkipReason("neither dvc.lock nor a data set has changed")
    names = sync(context.instance, Project.load(PROJECT.root))
    context.update_cursor(state)
    return dg.SkipReason(f"told Dagster of {', '.join(names)}" if names else "Dagster knows everything that lies here")
