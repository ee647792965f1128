"""Two runs of an MLflow store side by side: parameters that differ, origin, and numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.errors import MaftpError
from maftp.tracking.mlflow_logger import NOTE, _read_json
from maftp.tracking.mlflow_store import ROW, MlflowStore

if TYPE_CHECKING:
    from mlflow.entities import Run

_TAGS = ("maftp.commit", "maftp.dirty", "maftp.source_digest", "maftp.host", "maftp.device")
_TAG_GROUPS = ("maftp.package.", "maftp.sha256.")
_ROW = re.compile(r"(?:(?P<experiment>[^/]+)/)?(?P<variant>[^/]+?)(?:[-/](?:seed)?(?P<seed>\d+))?")


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs."""

    names: tuple[str, str]
    params: dict[str, tuple[str | None, str | None]]
    """Parameters with different values; None where a run has no such parameter."""
    origin: dict[str, tuple[str | None, str | None]]
    """Commit, machine, packages and input digests that differ."""
    metrics: dict[str, tuple[float | None, float | None]]
    """Last value of every metric but those of the machine."""


def compare(store: MlflowStore, first: str, second: str) -> Comparison:
    """Compare two runs.

    Args:
        store: where they are.
        first: a run id, a run's folder, or [experiment/]variant[-seedN].
        second: see `first`.

    Raises:
        MaftpError: the store has no such run.
    """
    runs = (find_run(store, first), find_run(store, second))
    return Comparison(
        names=(_title(runs[0]), _title(runs[1])),
        params=_differing(runs[0].data.params, runs[1].data.params),
        origin=_differing(_origin(runs[0]), _origin(runs[1])),
        metrics=_pairs(_metrics(runs[0]), _metrics(runs[1])),
    )


def find_run(store: MlflowStore, name: str) -> Run:
    """Return a run by its id, its folder or its row in the table.

    Raises:
        MaftpError: the store has no such run.
    """
    noted = _read_json(Path(name) / NOTE).get("run_id") if Path(name).is_dir() else None
    run = None
    if noted or re.fullmatch(r"[0-9a-f]{32}", name):
        run = store.get(noted or name)
    elif found := _ROW.fullmatch(name):
        experiment = found["experiment"] or store.experiment
        row = f"{experiment}/{found['variant']}/{found['seed'] or 0}"
        run = MlflowStore(uri=store.uri, experiment=experiment).find_row(row)
    if run is None:
        raise MaftpError(
            f"{name}: no such run in MLflow at {store.address}; name one by its id, its folder or "
            "as variant-seed0, and log it first (maftp runs log)"
        )
    return run


def _title(run: Run) -> str:
    return f"{run.data.tags.get(ROW, run.info.run_name)} ({run.info.run_id[:8]})"


def _origin(run: Run) -> dict[str, str]:
    return {
        key: value
        for key, value in run.data.tags.items()
        if key in _TAGS or key.startswith(_TAG_GROUPS)
    }


def _metrics(run: Run) -> dict[str, float]:
    return {k: v for k, v in run.data.metrics.items() if not k.startswith("system/")}


def _differing(first: dict, second: dict) -> dict:
    return {key: pair for key, pair in _pairs(first, second).items() if pair[0] != pair[1]}


def _pairs(first: dict, second: dict) -> dict:
    keys = [*first, *(key for key in second if key not in first)]
    return {key: (first.get(key), second.get(key)) for key in sorted(keys)}
