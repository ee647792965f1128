"""An MLflow server or SQLite file. MLflow shows and compares, and decides nothing."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.credentials import without_credentials
from maftp.lock import locked
from maftp.results import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from maftp.config import Params

ROW = "maftp.row"
"""Tag: experiment/variant/seed, the row of the table that a run stands behind."""
DIGEST = "maftp.digest"
"""Tag: digest of everything the weights of a run depend on."""

_SQLITE = "sqlite:///"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show trainings, not conversations with language models."""
_QUIET = ("alembic", "urllib3", *(f"mlflow.{name}" for name in ("store", "tracking", "pyfunc")))
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",  # no complaint where git is absent
    # A server that is away shall not hold up the end of a training for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MlflowStore:
    """One experiment on one server; MLflow is imported and reached when it is first used."""

    def __init__(self, *, uri: str, experiment: str) -> None:
        """Remember where.

        Args:
            uri: tracking server or SQLite file; $MLFLOW_TRACKING_URI wins.
            experiment: name of the experiment.
        """
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
        self.address = without_credentials(self.uri)
        """For people."""
        self.experiment = experiment

    @classmethod
    def from_params(cls, params: Params) -> MlflowStore:
        """Return the experiment's store."""
        return cls(uri=params.tracking.uri, experiment=params.experiment)

    @cached_property
    def client(self) -> MlflowClient:
        """The connection."""
        for name, value in _ENVIRONMENT.items():  # read on import
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for noisy in (*_QUIET, "mlflow.system_metrics"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        # Two runs that begin at the same moment would both make the tables of a new SQLite file.
        with nullcontext() if self._file is None else locked(self._file.with_suffix(".db.lock")):
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    @property
    def _file(self) -> Path | None:
        file = self.uri.removeprefix(_SQLITE)
        return None if file == self.uri else Path(file).resolve()

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id; it is made when there is none."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server knows its own place for artifacts.
            place = None if self._file is None else (self._file.parent / "mlruns").as_uri()
            try:
                return self.client.create_experiment(self.experiment, place, _KIND)
            except MlflowException:  # another run made it meanwhile
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return found.experiment_id

    def create(self, name: str, tags: Mapping[str, str]) -> Run:
        """Make a run and return it."""
        return self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))

    def find(self, tags: Mapping[str, str], *, unfinished: bool = False) -> Run | None:
        """Return the newest run of the experiment with all these tags."""
        wanted = [f'tags.`{key}` = "{value}"' for key, value in tags.items()]
        wanted += ["attributes.status != 'FINISHED'"] if unfinished else []
        found = self.client.search_runs([self.experiment_id], " and ".join(wanted), max_results=1)
        return found[0] if found else None

    def last_step(self, run: Run) -> float:
        """Return the step of the last row of the history that a run has."""
        history = self.client.get_metric_history(run.info.run_id, "loss")
        return max((metric.step for metric in history), default=-math.inf)

    def log(
        self,
        run: Run,
        *,
        manifest: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        rows: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Log in few requests.

        Args:
            run: as it was found; parameters it has stay, as MLflow never changes one.
            manifest: what it was made of, as parameters and tags.
            tags: further ones.
            rows: numbers, each row with its `step`; what is not finite is left out.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        params = flatten(manifest["params"]) if manifest else {}
        all_tags = (manifest_tags(manifest) if manifest else {}) | dict(tags or {})
        metrics = [
            Metric(key, value, now, int(row["step"]))
            for row in rows
            for key, value in row.items()
            if key != "step" and math.isfinite(value)
        ]
        self.client.log_batch(
            run.info.run_id,
            metrics,
            [Param(key, str(value)) for key, value in params.items() if key not in run.data.params],
            [RunTag(key, str(value)) for key, value in all_tags.items() if value is not None],
        )


def manifest_tags(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the way back from a run: commit, command, machine, packages, digests of its inputs."""
    names = ("commit", "dirty", "params_digest", "source_digest", "device", "host", "platform")
    command = " ".join(manifest.get("command", ())) or None
    named = {name: manifest.get(name) for name in (*names, "python")} | {"command": command}
    named |= {"package": manifest.get("packages", {}), "sha256": manifest.get("inputs", {})}
    source = {"name": command, "type": "LOCAL", "git.commit": manifest.get("commit")}
    return flatten({"maftp": named, "mlflow.source": source})
