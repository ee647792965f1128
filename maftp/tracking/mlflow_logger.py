"""The MLflow run of a training, kept while it goes on: parameters, metrics by step, the machine.

A thread of the driver sends rows together every few seconds, so that no step and no progress line
waits for a server. A server that fails is reported once and tried again later; what it missed is
sent at the end. MLflow is a copy: everything it gets lies in files beside the weights too.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.credentials import without_credentials
from maftp.files import write_json
from maftp.tracking.mlflow_store import DIGEST, ROW, MlflowStore, flatten, server_uri

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    from maftp.config import Params

logger = logging.getLogger(__name__)

NOTE = "mlflow.json"
"""File in a run's folder: server, run id, digest and last logged step."""
PICTURES = "validation"
"""Folder in a run's folder: a folder of pictures per validated step."""

_SEND_EVERY_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 60.0
_LAST_SECONDS = 30.0
"""Longest wait for a server at the end of a training."""


class MlflowLogger:
    """One run in MLflow, opened by `start` and found again after an interruption."""

    def __init__(
        self, *, uri: str, experiment: str, variant: str, seed: int, folder: Path, digest: str
    ) -> None:
        """Remember where to log; MLflow is imported and reached by the thread.

        Args:
            uri: tracking server or SQLite file; $MLFLOW_TRACKING_URI wins.
            experiment: name of the experiment.
            variant: with the seed, the name of the run.
            seed: see `variant`.
            folder: the run's folder, where the run id is kept.
            digest: what the run depends on; a note with another digest starts a new run.
        """
        self._store = MlflowStore(uri=server_uri(uri), experiment=experiment)
        self._name = f"{variant}-seed{seed}"
        self._identity = {ROW: f"{experiment}/{variant}/{seed}", DIGEST: digest}
        self._note = RunNote(folder / NOTE, uri=self._store.address, digest=digest)
        self._manifest: Mapping[str, Any] = {}
        self._rows: list[Mapping[str, float]] = []
        self._run_id: str | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        # A daemon: a server that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._due = 0.0
        self._complained = False

    @classmethod
    def from_params(
        cls, params: Params, *, variant: str, seed: int, folder: Path, digest: str
    ) -> MlflowLogger:
        """Log a run of `params` under the name {variant}-seed{seed}."""
        return cls(
            uri=params.tracking.uri,
            experiment=params.experiment,
            variant=variant,
            seed=seed,
            folder=folder,
            digest=digest,
        )

    def start(self, manifest: Mapping[str, Any], rows: Sequence[Mapping[str, float]] = ()) -> None:
        """Open the run and log what it is made of.

        Args:
            manifest: as `maftp.tracking.manifest.collect_manifest` returns it.
            rows: history of an interrupted run; what was not logged then is logged now.
        """
        self._manifest = manifest
        self._rows = list(rows)
        self._thread.start()
        self._send()

    def log_row(self, row: Mapping[str, float]) -> None:
        """Take one row of the history to be sent with the next ones."""
        self._rows.append(row)
        if time.monotonic() >= self._due and self._tasks.unfinished_tasks == 0:
            self._send()

    def finish(self, *artifacts: Path) -> None:
        """Send what is left, attach files and close the run."""
        self._close("FINISHED", artifacts)

    def stop(self) -> None:
        """Send what is left of an interrupted run, if it began; `start` opens it again."""
        if self._manifest:
            self._close("KILLED", ())

    def _close(self, status: str, artifacts: Sequence[Path]) -> None:
        self._tasks.put(lambda: self._end(status, artifacts))
        self._tasks.put(None)
        self._thread.join(_LAST_SECONDS)
        if self._thread.is_alive():
            self._complain(f"no answer within {_LAST_SECONDS:.0f} s")

    def _send(self) -> None:
        self._due = time.monotonic() + _SEND_EVERY_SECONDS
        self._tasks.put(self._catch_up)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:  # whatever a server answers, training goes on
                self._due = time.monotonic() + _RETRY_AFTER_SECONDS
                self._complain(" ".join(str(error).split())[:200])
            finally:
                self._tasks.task_done()

    def _complain(self, reason: str) -> None:
        if not self._complained:
            logger.warning(
                "MLflow at %s failed (%s); going on without it, `maftp runs log` sends later"
                " what is in %s",
                self._store.address, without_credentials(reason), self._note.path.parent,
            )  # fmt: skip
        self._complained = True

    def _catch_up(self) -> None:
        """Open the run when it is not yet open; send rows that are not yet sent."""
        if self._run_id is None:
            self._run_id = self._open()
        rows = [row for row in self._rows if row["step"] > self._note.step]
        if rows:
            self._store.log_rows(self._run_id, rows)
            self._send_pictures(rows)
            self._note.keep(self._run_id, step=int(rows[-1]["step"]))

    def _send_pictures(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Send the pictures of the validations that the rows end with."""
        for row in rows:
            name = f"{PICTURES}/step-{int(row['step']):08d}"
            pictures = self._note.path.parent / name
            if pictures.is_dir():
                self._store.client.log_artifacts(self._run_id, str(pictures), name)

    def _open(self) -> str:
        run = self._find()
        run_id = run.info.run_id
        self._store.client.update_run(run_id, status="RUNNING")
        self._store.log_params(run, flatten(self._manifest["params"]))
        self._store.log_tags(run_id, manifest_tags(self._manifest))
        self._store.client.log_dict(run_id, dict(self._manifest), "manifest.json")
        self._monitor = _watch_machine(run_id, self._store.uri)
        return run_id

    def _find(self) -> Run:
        run = None if self._note.run_id is None else self._store.get(self._note.run_id)
        if run is None:
            run = self._store.create(self._name, self._identity)
            self._note.keep(run.info.run_id, step=0)
        return run

    def _end(self, status: str, artifacts: Sequence[Path]) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._catch_up()
        for path in artifacts:
            self._store.client.log_artifact(self._run_id, str(path))
        self._store.client.set_terminated(self._run_id, status=status)


class RunNote:
    """Which MLflow run a folder's training is, and how far it is logged; kept as `mlflow.json`."""

    def __init__(self, path: Path, *, uri: str, digest: str) -> None:
        """Read the note; one of another server or digest does not count."""
        self.path = path
        self.run_id: str | None = None
        self.step = 0
        self._same = {"uri": uri, "digest": digest}
        note = _read_json(path)
        if self._same.items() <= note.items():
            self.run_id, self.step = note.get("run_id"), int(note.get("step", 0))

    def keep(self, run_id: str, *, step: int) -> None:
        """Write the note."""
        self.run_id, self.step = run_id, step
        write_json(self.path, {**self._same, "run_id": run_id, "step": step})


def manifest_tags(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the way back from a run: commit, command, machine, packages, digests of its inputs."""
    names = ("commit", "dirty", "params_digest", "source_digest", "device", "host", "platform")
    tags = {f"maftp.{name}": manifest.get(name) for name in (*names, "python")}
    command = " ".join(manifest.get("command", ())) or None
    tags |= {
        "maftp.command": command,
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": manifest.get("commit"),
    }
    packages = manifest.get("packages", {})
    inputs = manifest.get("inputs", {})
    tags |= {f"maftp.package.{name}": version for name, version in packages.items()}
    tags |= {f"maftp.sha256.{path}": digest for path, digest in inputs.items()}
    return tags


def _watch_machine(run_id: str, uri: str) -> SystemMetricsMonitor:
    """Log processor, memory, disk, network and GPU of the driver's machine every ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    return monitor


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
