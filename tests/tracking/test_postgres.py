"""MLflow on a real PostgreSQL of this machine, several trainings at once, as a lab has it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # where Debian puts them
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVERS, reason="PostgreSQL is not installed"),
]
TRAINING = """
import sys, time
from pathlib import Path
import mlflow.store.model_registry.sqlalchemy_store  # the slow part of a first connection
from maftp.tracking import mlflow_logger
from tests.tracking.test_mlflow_logger import MANIFEST, STEPS, tracker
mlflow_logger._LAST_SECONDS = 600.0  # a training of hours has no need of it
uri, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir()
while len(list(folder.parent.glob("seed*"))) < 3:  # all begin at the same moment
    time.sleep(0.01)
logger = tracker(uri, folder, digest=folder.name)
logger.start(MANIFEST)
for row in STEPS:
    logger.log_row(row)
(folder / "history.csv").write_text("step\\n")
logger.finish(folder / "history.csv")
"""
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until(ready) -> None:
    deadline = time.monotonic() + 600
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty database; PostgreSQL refuses to run as root."""
    port, programs = free_port(), SERVERS[-1].parent
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # noqa: S108 - a short socket path
    if other:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    make = [programs / "initdb", "-D", data, "-U", "lab", "--auth=trust", "--no-sync"]
    subprocess.run([*other, *make], check=True, capture_output=True, cwd="/")
    serve = [programs / "postgres", "-D", data, "-k", folder, "-p", str(port), "-h", "127.0.0.1"]
    server = subprocess.Popen([*other, *serve], cwd="/", stderr=subprocess.DEVNULL)
    asked = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
    try:
        wait_until(lambda: subprocess.run(asked).returncode == 0)
        create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "lab", "runs"]
        subprocess.run(create, check=True)
        yield f"postgresql://lab@127.0.0.1:{port}/runs"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture
def mlflow_server(postgres, tmp_path) -> Iterator[str]:
    """The address of an MLflow server that keeps its runs there."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    mlflow = Path(sys.executable).with_name("mlflow")
    options = ["--backend-store-uri", postgres, "--artifacts-destination", str(tmp_path / "files")]
    command = [mlflow, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen([*command, *options], stdout=log, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "server.log").read_text()
        try:
            return requests.get(f"{address}/health", timeout=10).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("way", ["postgres", "mlflow_server"])
def test_trainings_at_once_keep_their_numbers(way, request, tmp_path, monkeypatch):
    """Straight into a database whose tables nobody has made yet, and through MLflow's server."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")  # the machine may be busy with tests
    uri = request.getfixturevalue(way)
    folders = [tmp_path / f"seed{seed}" for seed in range(3)]
    command = [sys.executable, "-c", TRAINING, uri]
    trainings = [
        subprocess.Popen([*command, folder], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]
    errors = [training.communicate()[1] for training in trainings]
    assert [training.returncode for training in trainings] == [0, 0, 0], "\n".join(errors)
    client = MlflowClient(tracking_uri=uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = {run.data.tags["maftp.folder"]: run for run in client.search_runs(experiments)}
    assert set(runs) == {str(folder) for folder in folders}, "\n".join(errors)
    for run in runs.values():
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in history] == [(20, 3.0), (40, 2.0), (60, 1.0)]
        assert run.info.status == "FINISHED"
        there = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert there == {"history.csv", "manifest.json"}
    assert not (tmp_path / "mlruns").exists()
