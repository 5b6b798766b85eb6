"""What MLflow's page of an experiment opens with: columns of the table, charts and pictures that count, in this order.

MLflow keeps a view that somebody shares as a tag of the experiment; these are such tags, and `?viewStateShareKey=NAME`
in an address opens them. Without one its page has no metric in the table, and charts of every metric by alphabet.
"""

from __future__ import annotations

import json
from typing import Any

TAG = "mlflow.sharedViewState.columns"
KEY = "viewStateShareKey=columns"
COLUMNS = {  # metrics by family of stages
    "knowledge_base": (
        "num_pairs", "num_entities", "num_rejected", "recall_image", "recall_text",
        "validation_all_entity_recall_1", "validation_all_entity_recall_3", "query_ms_p50",
    ),
    "generator": (
        "loss", "validation/gain_t950", "validation/curve_retrieved_shift16", "validation/curve_retrieved_size0.5",
        "retrieved.images", "retrieved.attention_to_neighbors",
    ),
    "evaluation": (
        "retrieved.joint", "retrieved.entity", "retrieved.style", "retrieved.kid", "none.joint", "copied_snap.joint",
        "real.joint", "difference.retrieved-none",
    ),
    "sweep": ("joint", "entity", "style"),
}  # fmt: skip
_CURVES = ("loss", "validation/")  # the metrics that are logged by step begin so
_PICTURES = {"generator": ("sheets/comparison", "sheets/retrieved", "validation"), "evaluation": ("accuracy",)}
_COLUMN_WIDTH, _PICTURE_HEIGHT = 170, 800  # pixels


def view(family: str) -> str:
    """The tag's value for a `family` of `COLUMNS`."""
    columns = ["attributes.`Duration`", *(f"metrics.`{name}`" for name in COLUMNS[family])]
    pictures = _PICTURES.get(family, ())
    sections = [_section("counts", "What counts")]
    if pictures:  # one below the other, else MLflow shows the run's parameters where the picture should be
        sections.append(_section("pictures", "Pictures") | {"columns": 1, "cardHeight": _PICTURE_HEIGHT})
    charts = [_chart(name) for name in COLUMNS[family]] + [_picture(name) for name in pictures]
    return json.dumps(
        {
            "selectedColumns": columns,
            "columnOrder": columns,
            "columnWidths": dict.fromkeys(columns[1:], _COLUMN_WIDTH),
            "compareRunCharts": charts,
            "compareRunSections": sections,
            "isAccordionReordered": True,  # whatever else there is comes after these
        }
    )


def _section(name: str, title: str) -> dict[str, Any]:
    return {"uuid": name, "name": title, "display": True, "isReordered": True}


def _chart(metric: str) -> dict[str, Any]:
    axes = {"metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step", "lineSmoothness": 0}
    axes |= {"scaleType": "linear", "xAxisScaleType": "linear", "selectedXAxisMetricKey": ""}
    kind = "LINE" if metric.startswith(_CURVES) else "BAR"
    return _card(kind, metric, "counts") | (axes if kind == "LINE" else {"metricKey": metric})


def _picture(name: str) -> dict[str, Any]:
    return _card("IMAGE", name, "pictures") | {"imageKeys": [name], "step": 0}


def _card(kind: str, name: str, section: str) -> dict[str, Any]:
    card = {"type": kind, "uuid": f"{section}-{name}", "metricSectionId": section}
    return card | {"runsCountToCompare": 10, "deleted": False, "isGenerated": False}
