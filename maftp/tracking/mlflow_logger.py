"""The MLflow run of a training, kept while it goes on: parameters, metrics by step, the machine.

A thread of the driver sends what is new every few seconds, so that no step and no progress line
waits for a server. A server that fails is reported once and tried again later, with all it missed.
MLflow's own asynchronous logging drops what fails, and opens runs while the caller waits.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.credentials import without_credentials
from maftp.results import VALIDATION
from maftp.tracking.mlflow_store import DIGEST, PART, ROW, TRAINING, MlflowStore

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

_SEND_EVERY_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 60.0
_LAST_SECONDS = 30.0
"""Longest wait for a server at the end of a training."""


class MlflowLogger:
    """One run in MLflow, opened by `start` and found again after an interruption."""

    def __init__(
        self, store: MlflowStore, *, variant: str, seed: int, folder: Path, digest: str
    ) -> None:
        """Remember what to log; the thread reaches for the store.

        Args:
            store: where to.
            variant: with the seed, the name of the run.
            seed: see `variant`.
            folder: the run's folder.
            digest: what the run depends on; another digest is another run.
        """
        self._store = store
        self._row = f"{store.experiment}/{variant}/{seed}"
        self._folder = folder.resolve()
        self._identity = {
            ROW: self._row, PART: TRAINING, DIGEST: digest, "maftp.folder": str(self._folder),
        }  # fmt: skip
        self._manifest: Mapping[str, Any] = {}
        self._rows: list[Mapping[str, float]] = []
        self._sent, self._last_step = 0, -math.inf
        self._run: Run | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._end: tuple[str, Sequence[Path]] = ("RUNNING", ())
        self._ending = threading.Event()
        # A daemon: a server that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._complained = False

    def start(self, manifest: Mapping[str, Any], rows: Sequence[Mapping[str, float]] = ()) -> None:
        """Open the run and log what it is made of.

        Args:
            manifest: as `maftp.tracking.manifest.collect_manifest` returns it.
            rows: history of an interrupted run; what was not logged then is logged now.
        """
        self._manifest = manifest
        self._rows = list(rows)
        self._thread.start()

    def log_row(self, row: Mapping[str, float]) -> None:
        """Take one row of the history to be sent with the next ones."""
        self._rows.append(row)

    def finish(self, *artifacts: Path) -> None:
        """Send what is left, attach files and close the run."""
        self._wait("FINISHED", artifacts)

    def stop(self) -> None:
        """Send what is left of an interrupted run, if it began; `start` opens it again."""
        if self._manifest:
            self._wait("KILLED", ())

    def _wait(self, status: str, artifacts: Sequence[Path]) -> None:
        self._end = (status, artifacts)
        self._ending.set()
        self._thread.join(_LAST_SECONDS)
        if self._thread.is_alive():
            self._complain(f"no answer within {_LAST_SECONDS:.0f} s")

    def _work(self) -> None:
        pause, ending = 0.0, False
        while not ending:
            ending = self._ending.wait(pause)
            pause = _SEND_EVERY_SECONDS
            try:
                self._catch_up()
                if ending:
                    self._close()
            except Exception as error:  # whatever a server answers, training goes on
                pause = _RETRY_AFTER_SECONDS
                self._complain(" ".join(str(error).split())[:200])

    def _complain(self, reason: str) -> None:
        if not self._complained:
            logger.warning(
                "MLflow at %s failed (%s); going on without it, `maftp runs log` sends later"
                " what is in %s",
                self._store.address, without_credentials(reason), self._folder,
            )  # fmt: skip
        self._complained = True

    def _catch_up(self) -> None:
        """Open the run when it is not yet open; send rows that are not yet sent."""
        if self._run is None:
            run = self._open()
            self._last_step = self._store.last_step(run)
            self._run = run
        fresh = self._rows[self._sent :]
        rows = [row for row in fresh if row["step"] > self._last_step]
        self._store.log(self._run, rows=rows)
        for row in rows:
            name = f"{VALIDATION}/step-{int(row['step']):08d}"
            if (pictures := self._folder / name).is_dir():
                self._store.client.log_artifacts(self._run.info.run_id, str(pictures), name)
        self._sent += len(fresh)

    def _open(self) -> Run:
        store, tags = self._store, self._identity
        run = store.find(tags, unfinished=True)
        if run is None:
            method = self._manifest["params"].get("model", {}).get("name", "")
            run = store.create(self._row, tags, method)
        store.client.update_run(run.info.run_id, status="RUNNING")
        store.log(run, manifest=self._manifest)
        store.client.log_dict(run.info.run_id, dict(self._manifest), "manifest.json")
        if self._monitor is None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            # Processor, memory, disk, network and GPU of the driver's machine, every ten seconds.
            self._monitor = SystemMetricsMonitor(
                run.info.run_id, resume_logging=True, tracking_uri=store.uri
            )
            self._monitor.start()
        return run

    def _close(self) -> None:
        assert self._run is not None and self._monitor is not None
        self._monitor.finish()
        client, run_id, (status, artifacts) = self._store.client, self._run.info.run_id, self._end
        for path in artifacts:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, status=status)
