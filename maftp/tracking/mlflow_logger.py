"""Runs in MLflow: one per experiment, variant and seed; evaluations are nested runs.

MLflow is a copy: everything it gets lies in files beside the weights too. A server that fails is
reported once and then left alone; it never stops a training.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.files import write_json
from maftp.lock import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from maftp.config import Params

logger = logging.getLogger(__name__)

NOTE = "mlflow.json"
"""File in a run's folder: server, run id, digest and last logged step."""

_SQLITE = "sqlite:///"
_PARENT = "mlflow.parentRunId"
_BENCHMARK = "maftp.benchmark"


class MlflowLogger:
    """One run in MLflow, opened when something is logged and found again after an interruption."""

    def __init__(
        self, *, uri: str, experiment: str, run_name: str, folder: Path, digest: str
    ) -> None:
        """Remember where to log; MLflow is imported and reached at the first call.

        Args:
            uri: tracking server or SQLite file; $MLFLOW_TRACKING_URI wins.
            experiment: name of the experiment.
            run_name: name of the run.
            folder: the run's folder, where the run id is kept.
            digest: what the run depends on; a note with another digest starts a new run.
        """
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
        self._experiment = experiment
        self._run_name = run_name
        self._note_path = folder / NOTE
        self._digest = digest
        self._note = _read_note(self._note_path)
        if (self._note.get("uri"), self._note.get("digest")) != (self._uri, digest):
            self._note = {"uri": self._uri, "digest": digest, "run_id": None, "step": 0}
        self._client: MlflowClient | None = None
        self._failed = False

    @classmethod
    def from_params(
        cls, params: Params, *, variant: str, seed: int, folder: Path, digest: str
    ) -> MlflowLogger:
        """Log a run of `params` under the name {variant}-seed{seed}."""
        return cls(
            uri=params.tracking.uri,
            experiment=params.experiment,
            run_name=f"{variant}-seed{seed}",
            folder=folder,
            digest=digest,
        )

    def start(self, manifest: Mapping[str, Any], rows: Sequence[Mapping[str, float]] = ()) -> None:
        """Open the run and log what it was made of: parameters, and the manifest as an artifact.

        Args:
            manifest: as `maftp.tracking.manifest.collect_manifest` returns it.
            rows: history of an interrupted run; what was not logged then is logged now.
        """
        self._attempt(self._start, manifest)
        for row in rows:
            self.log_row(row)

    def log_row(self, row: Mapping[str, float]) -> None:
        """Log one row of the history; rows logged before an interruption are skipped."""
        if row["step"] > self._note["step"]:
            self._attempt(self._log_row, row)

    def finish(self, *artifacts: Path) -> None:
        """Attach files and close the run."""
        self._attempt(self._finish, *artifacts)

    def log_evaluation(
        self, benchmark: str, metrics: Mapping[str, float], *artifacts: Path
    ) -> None:
        """Log the scores of one benchmark as a run nested in this one; again replaces them.

        Args:
            benchmark: name in the tables.
            metrics: scores by name; what is not finite is left out.
            artifacts: files to attach.
        """
        self._attempt(self._log_evaluation, benchmark, metrics, *artifacts)

    def _attempt(self, log: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            if self._client is None:
                self._client = _connect(self._uri)
            log(*arguments)
        except Exception as error:  # whatever a server answers, training goes on
            self._failed = True
            reason = " ".join(str(error).split())[:200]
            logger.warning(
                "MLflow at %s failed (%s); going on without it, the numbers are in %s",
                self._uri, reason, self._note_path.parent,
            )  # fmt: skip

    def _start(self, manifest: Mapping[str, Any]) -> None:
        run_id = self._run_id()
        self._client.update_run(run_id, status="RUNNING")
        self._log_params(run_id, flatten(manifest["params"]))
        for name in ("commit", "dirty", "params_digest", "source_digest", "device", "python"):
            self._client.set_tag(run_id, f"maftp.{name}", str(manifest[name]))
        self._client.log_dict(run_id, dict(manifest), "manifest.json")

    def _log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(k, v) for k, v in values.items()])

    def _log_row(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        self._log_metrics(self._run_id(), {k: v for k, v in row.items() if k != "step"}, step)
        self._keep(step=step)

    def _log_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(k, v, now, step) for k, v in values.items() if math.isfinite(v)]
        self._client.log_batch(run_id, metrics=metrics)

    def _finish(self, *artifacts: Path) -> None:
        for path in artifacts:
            self._client.log_artifact(self._run_id(), str(path))
        self._client.set_terminated(self._run_id())

    def _log_evaluation(
        self, benchmark: str, metrics: Mapping[str, float], *artifacts: Path
    ) -> None:
        parent = self._run_id()
        experiment = self._experiment_id()
        wanted = f"tags.`{_PARENT}` = '{parent}' and tags.`{_BENCHMARK}` = '{benchmark}'"
        found = self._client.search_runs([experiment], filter_string=wanted, max_results=1)
        if found:
            run_id = found[0].info.run_id
        else:
            tags = {_PARENT: parent, _BENCHMARK: benchmark}
            name = f"{self._run_name} {benchmark}"
            run_id = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
        self._log_metrics(run_id, metrics, step=0)
        for path in artifacts:
            self._client.log_artifact(run_id, str(path))
        self._client.set_terminated(run_id)

    def _run_id(self) -> str:
        """Return the run's id; make the run when there is none yet, or when the server lost it."""
        from mlflow.exceptions import MlflowException

        if self._note["run_id"] is not None:
            try:
                return self._client.get_run(self._note["run_id"]).info.run_id
            except MlflowException:
                logger.debug("MLflow does not know run %s any more", self._note["run_id"])
        run = self._client.create_run(self._experiment_id(), run_name=self._run_name)
        self._keep(run_id=run.info.run_id, step=0)
        return run.info.run_id

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return self._client.create_experiment(
                    self._experiment, artifact_location=_artifact_location(self._uri)
                )
            except MlflowException:  # another run made it meanwhile
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return found.experiment_id

    def _keep(self, **values: Any) -> None:
        self._note |= values
        write_json(self._note_path, self._note)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values under dotted keys, as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _connect(uri: str) -> MlflowClient:
    # Read on import: no usage reports, and no complaint where git is absent.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Two runs that begin at the same moment would both make the tables of a new SQLite file.
    with _alone_with(uri):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _alone_with(uri: str) -> AbstractContextManager[None]:
    if not uri.startswith(_SQLITE):
        return nullcontext()
    database = Path(uri.removeprefix(_SQLITE))
    return locked(database.with_name(f"{database.name}.lock"))


def _artifact_location(uri: str) -> str | None:
    """Return the folder `mlruns` beside a SQLite file; a server knows its own place."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlruns").as_uri()


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
