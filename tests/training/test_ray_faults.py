"""Faults of the machine under a real Ray: one sentence each, and the same command ends with the
bytes of a run that nobody has disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maftp.files import sha256
from tests.training.conftest import ROOT
from tests.training.processes import alive, children, losses, wait_for

FULL_DISK = Path(__file__).with_name("full_disk.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{out.parent}/mlflow.db", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    driver = Path(__file__).with_name("tiny_run.py")
    subprocess.run([sys.executable, driver, out], env=environment, check=True, capture_output=True)
    return out


def end(driver: subprocess.Popen) -> str:
    _, log = driver.communicate()
    return log


def assert_one_sentence(log: str, *parts: str) -> None:
    assert "Traceback" not in log and "ray.exceptions" not in log, log
    assert all(part in log.splitlines()[-1] for part in parts), log


def assert_equal_bytes(out: Path, undisturbed: Path) -> None:
    assert sha256(out / "weights.safetensors") == sha256(undisturbed / "weights.safetensors")
    assert losses(out / "history.csv") == losses(undisturbed / "history.csv")


def processes_named(driver: int, *names: str) -> list[int]:
    """Return the driver's descendants whose command begins with a program of these names."""
    found = []
    for pid in children(driver):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if command.rpartition("/")[2].removeprefix("ray::").startswith(names):
            found.append(pid)
    return found


AGAIN = "run it again to go on from the last checkpoint"


KILLED = {
    "gcs_server": f"Ray's gcs_server was killed or has crashed; {AGAIN}",
    "raylet": f"Ray's raylet was killed or has crashed; {AGAIN}",
    "TrainController": f"a process of Ray was killed or has crashed; {AGAIN}",
}


def test_every_process_killed_in_turn(start, undisturbed, tmp_path):
    """One training goes through it all: Ray's own processes, driver and checkpoint, worker."""
    out = tmp_path / "run"
    worker = out.with_suffix(".pids") / "0.pid"

    def begin() -> subprocess.Popen:
        worker.unlink(missing_ok=True)
        driver = start(str(out), "--seconds", "1.0")
        wait_for(worker.exists, "a worker")
        wait_for((out / "checkpoints/heartbeat.json").exists, "its first step")
        wait_for(lambda: any((out / "checkpoints").glob("step-*")), "a checkpoint")
        return driver

    def kill(driver: subprocess.Popen, name: str) -> None:
        hit = processes_named(driver.pid, name)
        assert hit, name
        for pid in hit:
            os.kill(pid, signal.SIGKILL)

    for name, sentence in KILLED.items():
        driver = begin()
        assert not processes_named(driver.pid, "DatasetManager", "PlacementGroupCleaner"), "unused"
        kill(driver, name)
        log = end(driver)
        assert driver.returncode == 1, log
        assert_one_sentence(log, sentence)
        assert not (out / "weights.safetensors").exists()

    driver = begin()
    wait_for((out / "checkpoints/step-00000008").exists, "the second checkpoint")
    everything = children(driver.pid)
    workers = {pid: everything[pid] for pid in processes_named(driver.pid, "RayTrainWorker")}
    driver.kill()
    driver.wait()
    # the workers may train on for seconds before they notice, on a busy machine to the end
    wait_for(lambda: not alive(workers), "the end of the workers")
    *_, older, newest = sorted((out / "checkpoints").glob("step-????????"))
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:100])

    kill(driver := begin(), "RayTrainWorker")
    log = end(driver)
    assert driver.returncode == 0, log
    step = int(older.name.removeprefix("step-"))
    assert f"optimizer.pt differs from its digest); going back to step {step}" in log
    assert "a worker was lost: going on from step" in log  # Ray has started another
    assert_equal_bytes(out, undisturbed)


def test_lack_of_memory(start, undisturbed, tmp_path):
    """Ray's own watch over the machine's memory, with a threshold that is passed at once."""
    out = tmp_path / "run"
    driver = start(str(out), RAY_memory_usage_threshold="0.02", RAY_memory_monitor_refresh_ms="100")
    log = end(driver)
    assert driver.returncode == 1, log
    assert_one_sentence(
        log, "memory does not suffice (", "set execution.micro_batch_size to 2", AGAIN
    )
    log = end(again := start(str(out)))
    assert again.returncode == 0, log
    assert_equal_bytes(out, undisturbed)


def test_the_advice_on_memory_goes_on_from_the_checkpoint(start, undisturbed, tmp_path):
    out = tmp_path / "run"
    driver = start(str(out), "--seconds", "0.5")
    wait_for(lambda: (out / "checkpoints/step-00000004").exists(), "the first checkpoint")
    driver.send_signal(signal.SIGTERM)
    end(driver)
    assert driver.returncode == 75
    log = end(again := start(str(out), "--micro-batch-size", "2"))
    assert again.returncode == 0, log
    assert "going on from step" in log and "step 3/12" not in log
    steps = [[row["step"] for row in losses(p / "history.csv")] for p in (out, undisturbed)]
    assert set(steps[0]) >= set(steps[1])


def test_a_full_disk(undisturbed, tmp_path):
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    (tmp_path / "disk").mkdir()
    command = ["unshare", "--mount", sys.executable, FULL_DISK, tmp_path / "disk"]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no permission to mount a small file system")
    assert done.returncode == 0, done.stdout + done.stderr
    full, held, room = done.stdout.splitlines()
    assert full.startswith("FULL 1 ") and "no space is left on this disk" in full
    assert held == "HELD step-00000004"  # nothing half written
    assert room == f"ROOM {sha256(undisturbed / 'weights.safetensors')}"


def test_a_long_tmpdir(start, undisturbed, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    log = end(driver := start(str(tmp_path / "run"), TMPDIR=str(long)))
    assert driver.returncode == 0, log
    assert "$TMPDIR is too long for sockets" in log
    assert_equal_bytes(tmp_path / "run", undisturbed)
