"""Recorded spans as a trace of MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rag_diffusion.spans import Span

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TRACES_PER_BATCH = 100


def write_traces(
    client: MlflowClient, experiment_id: str, roots: Sequence[Span], tags: Mapping[str, str], run_id: str | None = None
) -> None:
    """Write trees of spans, with their own times.

    Args:
        client: of the store.
        experiment_id: whose page shows them.
        roots: the trees, a trace each.
        tags: of every trace.
        run_id: the run that they belong to.
    """
    import mlflow

    ids = []
    for root in roots:
        trace = client.start_trace(
            root.name,
            span_type=root.kind,
            inputs=root.inputs,
            tags=dict(tags),
            experiment_id=experiment_id,
            start_time_ns=root.start,
        )
        for child in root.children:
            _write(client, child, trace.trace_id, trace.span_id)
        client.end_trace(trace.trace_id, outputs=root.outputs, end_time_ns=root.end)
        ids.append(trace.trace_id)
    mlflow.flush_trace_async_logging()
    for start in range(0, len(ids) if run_id else 0, _TRACES_PER_BATCH):
        client.link_traces_to_run(ids[start : start + _TRACES_PER_BATCH], run_id)


def _write(client: MlflowClient, part: Span, trace_id: str, parent_id: str) -> None:
    span = client.start_span(
        part.name, trace_id, parent_id, span_type=part.kind, inputs=part.inputs, start_time_ns=part.start
    )
    for child in part.children:
        _write(client, child, trace_id, span.span_id)
    client.end_span(trace_id, span.span_id, outputs=part.outputs, end_time_ns=part.end)
