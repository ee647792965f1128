"""Training under Ray: killed drivers, two workers, broken data."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maftp.errors import DataError
from maftp.training.launch import launch
from maftp.training.meter import TIMINGS
from maftp.training.place import Place
from maftp.training.run_folder import RunFolder
from maftp.training.worker import train

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("tiny_run.py")
PATIENCE = 400.0


@pytest.fixture
def start(tmp_path):
    """Start drivers as processes of their own; none outlives the test."""
    drivers = []

    def start_driver(*arguments: str) -> subprocess.Popen:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("RAY_ADDRESS", None)
        driver = subprocess.Popen(
            [sys.executable, str(DRIVER), *arguments],
            env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        drivers.append(driver)
        return driver

    yield start_driver
    for driver in drivers:
        driver.kill()
        driver.wait()


def wait_for(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.2)


def children(pid: int) -> dict[int, str]:
    """Return all living descendants of a process and when each started."""
    parents, starts = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
            starts[int(stat.parent.name)] = fields[19]
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: starts[child] for child in found - {pid} if child in starts}


def alive(processes: dict[int, str]) -> list[int]:
    """Return those of `processes` that still live; numbers are used again, starts are not."""
    found = []
    for pid, started in processes.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[19] == started and fields[0] != "Z":
            found.append(pid)
    return found


def losses(history: Path) -> list[dict[str, str]]:
    with open(history, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


@pytest.fixture
def unbroken(tiny, params, tmp_path):
    """The same training as a plain function call."""
    folder = RunFolder(tmp_path / "unbroken", digest="abc")
    folder.begin()
    train(
        tiny.TinyModel(0),
        tiny.tiny_batches(),
        params=params,
        seed=0,
        folder=folder.checkpoints,
        report=lambda row, path: None,
        facts={"run": "abc"},
        place=Place(rank=0, world_size=1, device=torch.device("cpu")),
    )
    folder.publish({})
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_killed_driver_is_resumed(start, unbroken, tmp_path):
    out = tmp_path / "run"
    first = start(str(out), "--seconds", "1.0")
    wait_for(lambda: (out / "checkpoints" / "step-00000004").exists(), "the first checkpoint")
    processes = children(first.pid)
    assert processes
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (out / "weights.safetensors").exists()
    wait_for(lambda: not alive(processes), "Ray's processes to end with their driver")

    second = start(str(out))
    _, log = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, log
    assert "going on from" in log and "step 12/12" in log and "step 3/12" not in log
    assert losses(out / "history.csv") == losses(unbroken.history)
    one, two = load_file(out / "weights.safetensors"), load_file(unbroken.weights)
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert {path.name for path in out.iterdir()} == {
        "weights.safetensors", "history.csv", "manifest.json", "mlflow.json"
    }  # fmt: skip

    from mlflow import MlflowClient

    run_id = json.loads((out / "mlflow.json").read_text())["run_id"]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    steps = [metric.step for metric in client.get_metric_history(run_id, "loss")]
    assert steps == [3, 4, 6, 8, 9, 12]
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_two_workers_and_broken_data(start, tmp_path):
    out = tmp_path / "run"
    first = start(str(out), "--workers", "2", "--fault", "6")
    _, log = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1
    assert "step 7: the loss is not finite (loss_ce = nan" in log.splitlines()[-1]
    assert "image_24.jpg" in log or "image_26.jpg" in log
    assert "Traceback" not in log
    assert not (out / "weights.safetensors").exists()
    assert (out / "checkpoints" / "step-00000004").exists()

    second = start(str(out), "--workers", "2")
    _, log = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, log
    assert [row["step"] for row in losses(out / "history.csv")] == ["3", "4", "6", "8", "9", "12"]


def test_complete_run_starts_nothing(tiny, params, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr("maftp.training.launch.training_digest", lambda *_, **__: "abc")
    monkeypatch.setattr("maftp.training.launch._run", None)
    before = unbroken.weights.stat().st_mtime_ns
    weights = launch(
        params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER, out=unbroken.path
    )
    assert weights == unbroken.weights
    assert weights.stat().st_mtime_ns == before


def test_missing_input_is_named(params, tmp_path):
    with pytest.raises(DataError, match="clip.safetensors: no such file"):
        launch(
            params,
            variant="maftp",
            seed=0,
            clip=tmp_path / "clip.safetensors",
            embeddings=DRIVER,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
