"""An MLflow tracking server or SQLite file, and what is written to one run in few requests."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from maftp.credentials import without_credentials
from maftp.lock import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
ROW = "maftp.row"
"""Tag: experiment/variant/seed, the row of the table that a run stands behind."""
BENCHMARK = "maftp.benchmark"
DIGEST = "maftp.digest"
"""Tag: digest of everything the weights of a run depend on."""

_SQLITE = "sqlite:///"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show trainings, not conversations with language models."""
_NAMES_PER_REQUEST = 100
_METRICS_PER_REQUEST = 900
_LONGEST_VALUE = 5000
_QUIET = (
    "alembic",
    "urllib3",
    "mlflow.store",
    "mlflow.tracking",
    "mlflow.system_metrics",
    "mlflow.pyfunc",
)
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",  # no complaint where git is absent
    # A server that is away shall not hold up the end of a training for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
Entry = TypeVar("Entry")


class MlflowStore:
    """One experiment on one server; MLflow is imported and reached when it is first used."""

    def __init__(self, *, uri: str, experiment: str) -> None:
        """Remember where.

        Args:
            uri: tracking server or SQLite file.
            experiment: name of the experiment.
        """
        self.uri = uri
        self.address = without_credentials(uri)
        """For people."""
        self.experiment = experiment

    @cached_property
    def client(self) -> MlflowClient:
        """The connection."""
        return _connect(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id; it is made when there is none."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return self.client.create_experiment(
                    self.experiment, artifact_location=_artifact_location(self.uri), tags=_KIND
                )
            except MlflowException:  # another run made it meanwhile
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return found.experiment_id

    def create(self, name: str, tags: Mapping[str, str]) -> Run:
        """Make a run and return it."""
        return self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))

    def get(self, run_id: str) -> Run | None:
        """Return a run by its id, or None when the server lost it or it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def find(self, tags: Mapping[str, str]) -> Run | None:
        """Return the newest run of the experiment with all these tags."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], filter_string=wanted, max_results=1)
        return found[0] if found else None

    def find_row(self, row: str) -> Run | None:
        """Return the newest run of a row of the table; evaluations do not count."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return None
        wanted = f"tags.`{ROW}` = '{row}'"
        found = self.client.search_runs([experiment.experiment_id], filter_string=wanted)
        return next((run for run in found if BENCHMARK not in run.data.tags), None)

    def log_params(self, run: Run, values: Mapping[str, str]) -> None:
        """Log parameters; those the run has already stay, as MLflow never changes one."""
        from mlflow.entities import Param

        params = [
            Param(key, value[:_LONGEST_VALUE])
            for key, value in values.items()
            if key not in run.data.params
        ]
        for part in _parts(params, _NAMES_PER_REQUEST):
            self.client.log_batch(run.info.run_id, params=part)

    def log_tags(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Set tags; what is None is left out."""
        from mlflow.entities import RunTag

        tags = [
            RunTag(key, str(value)[:_LONGEST_VALUE])
            for key, value in values.items()
            if value is not None
        ]
        for part in _parts(tags, _NAMES_PER_REQUEST):
            self.client.log_batch(run_id, tags=part)

    def log_rows(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Log rows of numbers, each with its `step`; what is not finite is left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(key, value, now, int(row["step"]))
            for row in rows
            for key, value in row.items()
            if key != "step" and math.isfinite(value)
        ]
        for part in _parts(metrics, _METRICS_PER_REQUEST):
            self.client.log_batch(run_id, metrics=part)


def server_uri(configured: str) -> str:
    """Return the server: $MLFLOW_TRACKING_URI, else the configured one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or configured


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
    for name, value in _ENVIRONMENT.items():  # read on import
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for noisy in _QUIET:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Two runs that begin at the same moment would both make the tables of a new SQLite file.
    with _alone_with(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
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


def _parts(entries: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while part := list(islice(rest, size)):
        yield part
