"""Layouts of MLflow's page of runs, offered under its button Views: scores, variants, losses.

MLflow keeps such a layout as a tag of the experiment, in the form in which its page saves one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maftp.results import COSTS
from maftp.tracking.mlflow_store import PART, SUMMARY, TRAINING, MlflowStore

_LOSSES = ("loss", "loss_ce", "loss_mask", "loss_dice", "ranking_loss", "rc_loss")


def offer_views(store: MlflowStore, metrics: Sequence[str]) -> None:
    """Offer the layouts; one that is there, perhaps changed by a person, stays.

    Args:
        store: the experiment.
        metrics: of a row; scores first.
    """
    scores = [name for name in metrics if name not in COSTS]
    columns = ["tags.`variant`", "tags.`seed`", *(f"metrics.`{name}`" for name in metrics)]
    rows = {"selectedColumns": columns, "columnOrder": columns, **_charts(scores, "BAR", "Scores")}
    losses = _charts(_LOSSES, "LINE", "Losses")
    store.name_view("scores", "Scores", _state(**rows))
    store.name_view("variants", "Scores by variant", _state(**rows, **_by_variant(SUMMARY)))
    store.name_view("losses", "Losses by variant", _state(**losses, **_by_variant(TRAINING)))


def _by_variant(part: str) -> dict[str, Any]:
    """Show the mean over seeds; of curves, the range as well."""
    groups = [{"mode": "tag", "groupByData": "variant"}]
    return {
        "searchFilter": f"tags.`{PART}` = '{part}'",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": groups},
    }


def _state(**chosen: Any) -> dict[str, Any]:
    return {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": True,
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": [], "columnOrder": [],
        "runsHiddenMode": "SHOW_ALL", "hideEmptyCharts": True, "groupBy": None,
        "useGroupedValuesInCharts": True, "isAccordionReordered": True,
        **chosen,
    }  # fmt: skip


def _charts(metrics: Sequence[str], kind: str, section: str) -> dict[str, Any]:
    """Draw these metrics; MLflow adds a section of all others, which is closed."""
    return {
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name == section}
            for name in (section, "Model metrics", "System metrics")
        ],
        "compareRunCharts": [
            {"type": kind, "uuid": f"maftp-{name}", "metricKey": name, "metricSectionId": section}
            for name in metrics
        ],
    }
