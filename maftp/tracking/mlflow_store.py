"""An MLflow server or SQLite file. MLflow shows and compares, and decides nothing."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
PART = "maftp.part"
"""Tag: which of the runs in MLflow this is of a row: `row`, `training` or a benchmark's name."""
SUMMARY, TRAINING = "row", "training"
PARENT = "mlflow.parentRunId"

_COLOUR = "mlflow.runColor"
_COLOURS = ("#0072B2", "#E69F00", "#8A8A8A", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""One for each variant, so that its seeds look alike in every chart."""

_SQLITE = "sqlite:///"
_POSTGRES_LOCK = 0x6D61667470
"""Any number that no other program would take: "maftp" in ASCII."""
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
        with self._alone():
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others out: runs that begin at one moment would all make a new database's tables."""
        if self._file is not None:
            with locked(self._file.with_suffix(".db.lock")):
                yield
        elif self.uri.startswith("postgresql"):  # other machines are kept out too
            import sqlalchemy

            engine = sqlalchemy.create_engine(self.uri, poolclass=sqlalchemy.NullPool)
            with engine.begin() as waiting:
                waiting.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
                yield
        else:
            yield

    @property
    def _file(self) -> Path | None:
        file = self.uri.removeprefix(_SQLITE)
        return None if file == self.uri else Path(file).resolve()

    @property
    def _artifacts(self) -> str | None:
        """Where files of runs go; a server knows its own place, a database only the rows."""
        from mlflow.store.db.db_types import DATABASE_ENGINES

        if self.uri.partition(":")[0].partition("+")[0] not in DATABASE_ENGINES:
            return None
        folder = Path("results") if self._file is None else self._file.parent
        return (folder / "mlruns").resolve().as_uri()

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id; it is made when there is none."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return self.client.create_experiment(self.experiment, self._artifacts, _KIND)
            except MlflowException:  # another run made it meanwhile
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return found.experiment_id

    def name_view(self, key: str, name: str, state: Mapping[str, Any]) -> None:
        """Offer a layout of the runs' page under a name; one that is there stays as it is."""
        tag = f"mlflow.sharedViewState.{key}"
        if tag in self.client.get_experiment(self.experiment_id).tags:
            return
        now = int(time.time() * 1000)
        view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        self.client.set_experiment_tag(self.experiment_id, tag, json.dumps(view))

    def create(self, row: str, tags: Mapping[str, str], method: str) -> Run:
        """Make a run and return it.

        Args:
            row: experiment/variant/seed.
            tags: to find it by; `PART` among them.
            method: of the variant.
        """
        experiment, variant, seed = row.split("/")
        part = "" if tags[PART] == SUMMARY else f": {tags[PART]}"
        groups = {"experiment": experiment, "variant": variant, "seed": seed, "method": method}
        return self.client.create_run(
            self.experiment_id,
            run_name=f"{variant}, seed {seed}{part}",
            tags={ROW: row, **groups, _COLOUR: self._colour(variant), **tags},
        )

    def _colour(self, variant: str) -> str:
        """Return the colour of a variant's runs, or one that no other variant has yet."""
        same = self.find({"variant": variant})
        if same is not None and _COLOUR in same.data.tags:
            return same.data.tags[_COLOUR]
        runs = self.client.search_runs([self.experiment_id])
        used = {run.data.tags.get(_COLOUR) for run in runs}
        return next((colour for colour in _COLOURS if colour not in used), _COLOURS[-1])

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
