"""Two Ray nodes on this machine, and everything that can end a training: it ends with the same
weights as one that nobody disturbs."""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maftp.training.meter import TIMINGS

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("tiny_run.py")
PATIENCE = 1800.0
STEPS, CHECKPOINTS = 28, 4
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def cluster(monkeypatch):
    """A head and another node, one core each, so that each has one of two workers."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from ray._private.authentication_test_utils import reset_auth_token_state
    from ray.cluster_utils import Cluster

    reset_auth_token_state()  # read when Ray was imported first, by another test

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    yield cluster
    cluster.shutdown()
    monkeypatch.undo()
    reset_auth_token_state()


class Training:
    """One driver process and what it logs."""

    def __init__(self, out: Path, address: str) -> None:
        environment = os.environ | {
            "RAY_ADDRESS": address,
            "MLFLOW_TRACKING_URI": f"sqlite:///{out.parent}/mlflow.db",
        }
        command = [sys.executable, DRIVER, out, "--workers", "2", "--nodes", "2"]
        command += ["--steps", str(STEPS), "--seconds", "0.5"]
        self.out = out
        self.log: list[str] = []
        self.process = subprocess.Popen(
            list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))
        self._reader.start()

    def workers(self) -> dict[int, int]:
        """Return the process of each worker by rank."""
        files = self.out.with_suffix(".pids").glob("*.pid")
        return {int(file.stem): int(file.read_text()) for file in files}

    def steps(self) -> int:
        """Return how many steps are done."""
        try:
            return json.loads((self.out / "checkpoints/heartbeat.json").read_text())["step"]
        except (OSError, ValueError):
            return 0

    def wait_for_steps(self, steps: int) -> None:
        end = time.monotonic() + PATIENCE
        while self.steps() < steps:
            assert self.process.poll() is None, "".join(self.log)
            assert time.monotonic() < end, f"waited {PATIENCE} s for step {steps}\n{self.log}"
            time.sleep(0.1)

    def end(self, number: int | None = None) -> str:
        """Send a signal, wait for the end, return the log."""
        if number is not None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return "".join(self.log)


def lost(log: str) -> list[tuple[int, float]]:
    """Return steps and seconds of every interruption a log tells of."""
    found = re.findall(r"lost (\d+) steps, ([\d.]+) s of training", log)
    return [(int(steps), float(seconds)) for steps, seconds in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows(history: Path) -> list[dict[str, str]]:
    with open(history, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def test_every_fault_in_one_training(cluster, tmp_path):
    other = cluster.add_node(**NODE)
    out = tmp_path / "run"

    first = Training(out, cluster.address)
    first.wait_for_steps(6)
    os.kill(first.workers()[1], signal.SIGKILL)
    first.wait_for_steps(10)
    cluster.remove_node(other, allow_graceful=False)
    cluster.add_node(**NODE)  # as a cluster manager replaces it
    first.wait_for_steps(14)
    log = first.end(signal.SIGTERM)
    assert first.process.returncode == 75, log
    assert "run it again to go on" in log
    assert [steps <= CHECKPOINTS for steps, _ in lost(log)] == [True, True], log
    print("lost to a killed worker and a killed node:", lost(log))

    second = Training(out, cluster.address)
    second.wait_for_steps(first.steps() + 5)
    workers = second.workers().values()
    log = second.end(signal.SIGKILL)
    assert [steps for steps, _ in lost(log)] == [0], log  # SIGTERM costs nothing
    print("lost to SIGTERM:", lost(log))
    end = time.monotonic() + PATIENCE
    while any(map(alive, workers)):
        assert time.monotonic() < end, "workers outlive their driver"
        time.sleep(0.2)

    third = Training(out, cluster.address)
    log = third.end()
    assert third.process.returncode == 0, log
    assert [steps <= CHECKPOINTS for steps, _ in lost(log)] == [True], log
    print("lost to a killed driver:", lost(log))

    undisturbed = tmp_path / "undisturbed"
    command = [sys.executable, DRIVER, undisturbed, "--workers", "2", "--steps", str(STEPS)]
    subprocess.run([*map(str, command), "--without-ray"], check=True)
    one, two = (load_file(folder / "weights.safetensors") for folder in (out, undisturbed))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert rows(out / "history.csv") == rows(undisturbed / "history.csv")
