"""Finished runs in MLflow: evaluations as children, scores, pictures, table, registered weights.

All of it comes from files, so a store that was lost, or that never saw a run because the server was
away or the results came through DVC, is filled by logging again. What is there already stays.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from maftp.files import sha256
from maftp.tracking.mlflow_logger import NOTE, RunNote, manifest_tags
from maftp.tracking.mlflow_store import BENCHMARK, DIGEST, PARENT, ROW, MlflowStore, flatten
from maftp.tracking.registry import register
from maftp.tracking.run_record import EvaluationRecord, RunRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

LOGGED = "maftp.logged"
"""Tag: digest of the files that the run was last logged from."""


def log_run(
    store: MlflowStore, record: RunRecord, *, table: Path | None, pictures: Sequence[Path] = ()
) -> str:
    """Bring one run, its evaluations and its registered weights up to date.

    Args:
        store: where to.
        record: what the run's files say.
        table: table.csv with the run's row; its .md is attached as well.
        pictures: further artifacts, such as learning curves.

    Returns:
        The id of the run.
    """
    tables = [] if table is None else [table, table.with_suffix(".md")]
    state = record.state(tables)
    run = _find_or_create(store, record)
    run_id = run.info.run_id
    if run.data.tags.get(LOGGED) == state:
        logger.info("%s is logged", record.row)
        return run_id
    store.log_params(run, flatten(record.manifest["params"]))
    store.log_tags(run_id, manifest_tags(record.manifest) | _table_tags(table))
    store.log_tags(run_id, {f"dvc.{path}": md5 for path, md5 in record.dvc_hashes().items()})
    last = _last_step(store, run)
    store.log_rows(run_id, [row for row in record.history if row["step"] > last])
    store.log_rows(run_id, [{"step": record.steps, **record.scores}])
    _attach(store, run_id, record, [*tables, *pictures])
    for evaluation in record.evaluations:
        _log_evaluation(store, run_id, record, evaluation)
    if record.weights is not None:
        register(store, record, run_id)
    store.client.set_terminated(run_id)
    store.log_tags(run_id, {LOGGED: state})
    logger.info("logged %s with %d evaluations", record.row, len(record.evaluations))
    return run_id


def _find_or_create(store: MlflowStore, record: RunRecord) -> Run:
    note = RunNote(record.folder / NOTE, uri=store.address, digest=record.digest)
    identity = {ROW: record.row, DIGEST: record.digest}
    run = None if note.run_id is None else store.get(note.run_id)
    run = run or store.find(identity) or store.create(record.name, identity)
    if run.info.run_id != note.run_id:
        note.keep(run.info.run_id, step=record.steps)
    return run


def _last_step(store: MlflowStore, run: Run) -> int:
    if "loss" not in run.data.metrics:
        return -1
    return max(m.step for m in store.client.get_metric_history(run.info.run_id, "loss"))


def _table_tags(table: Path | None) -> dict[str, str]:
    return {} if table is None else {"maftp.table": str(table), "maftp.table_sha256": sha256(table)}


def _attach(store: MlflowStore, run_id: str, record: RunRecord, further: Sequence[Path]) -> None:
    client = store.client
    values = yaml.safe_dump(dict(record.manifest["params"]), sort_keys=False)
    client.log_text(run_id, values, "params.yaml")
    client.log_dict(run_id, dict(record.manifest), "manifest.json")
    for path in (record.folder / "history.csv", *further):
        if path.exists():
            client.log_artifact(run_id, str(path))


def _log_evaluation(
    store: MlflowStore, parent: str, record: RunRecord, evaluation: EvaluationRecord
) -> None:
    """Log one benchmark as a run nested in that of the training; another result replaces it."""
    state = {"maftp.result_sha256": sha256(evaluation.path)}
    identity = {PARENT: parent, BENCHMARK: evaluation.benchmark}
    found = store.find(identity)
    if found is not None:
        if state.items() <= found.data.tags.items():
            return
        store.client.delete_run(found.info.run_id)
    child = store.create(f"{record.name} {evaluation.benchmark}", identity)
    run_id = child.info.run_id
    store.log_params(child, flatten(evaluation.manifest["params"]))
    store.log_rows(run_id, [{"step": record.steps, **evaluation.metrics}])
    store.client.log_artifact(run_id, str(evaluation.path))
    if evaluation.overlays.is_dir():
        for picture in sorted(evaluation.overlays.glob("*.png")):
            store.client.log_artifact(run_id, str(picture), "overlays")
    store.client.set_terminated(run_id)
    tags = {ROW: record.row, "maftp.weights_sha256": evaluation.manifest.get("weights_sha256")}
    store.log_tags(run_id, manifest_tags(evaluation.manifest) | tags | state)
