"""What can end a workflow: the same command ends with the byte-identical weights and table."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from maftp.files import sha256
from tests.training.processes import alive, children, wait_for
from tests.workflow.conftest import BIN, Checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]

PARAMS = ["smoke.yaml", "longer.yaml"]
LONGER = {
    "train": {"iterations": 40}, "benchmarks": ["PAS-20"], "variants": {"maftp": {}},
}  # fmt: skip
RUN = "results/smoke/maftp/seed0"
COSTS = ["training_seconds", "peak_host_memory_mb"]


@pytest.fixture(scope="module")
def begun(finished, tmp_path_factory) -> Checkout:
    """A checkout whose data are there; a longer training is to be done."""
    path = tmp_path_factory.mktemp("begun") / "checkout"
    finished.copy(path)
    shutil.rmtree(path / "results")
    (path / "longer.yaml").write_text(yaml.safe_dump(LONGER))
    return Checkout(path)


@pytest.fixture(scope="module")
def undisturbed(begun, tmp_path_factory) -> Checkout:
    checkout = begun.copy(tmp_path_factory.mktemp("undisturbed") / "checkout")
    checkout.snakemake("results/table.csv", params=PARAMS)
    return checkout


def start(checkout: Checkout) -> subprocess.Popen:
    command = [BIN / "snakemake", "--cores", "2", "results/table.csv", "--configfile", *PARAMS]
    return subprocess.Popen(
        list(map(str, command)), cwd=checkout.path, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_a_further_checkpoint(checkout: Checkout) -> None:
    folder = checkout.path / RUN / "checkpoints"
    before = set(folder.glob("step-*"))
    wait_for(lambda: set(folder.glob("step-*")) - before, "a checkpoint")


def descendants(process: subprocess.Popen, name: str) -> list[int]:
    """Return the descendants whose command line has this word as a program, or argument."""
    found = []
    for pid in children(process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        programs = {word.rpartition("/")[2].removeprefix("ray::").split(".")[0] for word in words}
        if name in programs:
            found.append(pid)
    return found


def assert_equal_results(checkout: Checkout, undisturbed: Checkout) -> None:
    one, other = (c.path / RUN / "weights.safetensors" for c in (checkout, undisturbed))
    assert sha256(one) == sha256(other)
    tables = [pd.read_csv(c.path / "results/table.csv") for c in (checkout, undisturbed)]
    pd.testing.assert_frame_equal(*(table.drop(columns=COSTS) for table in tables))


def test_killed_processes_are_made_up_for_within_the_command(begun, undisturbed, tmp_path):
    """A worker, which Ray starts again; one of Ray's own and the driver, which Snakemake does.

    tests/training/test_ray_faults.py kills Ray's other processes: their end is like the first's.
    """
    checkout = begun.copy(tmp_path / "checkout")
    workflow = start(checkout)
    for process in ("RayTrainWorker", "gcs_server", "maftp"):
        wait_for_a_further_checkpoint(checkout)
        everything, hit = children(workflow.pid), descendants(workflow, process)
        drivers = {pid: everything[pid] for pid in descendants(workflow, "maftp")}
        assert hit and drivers, process
        for pid in hit:
            os.kill(pid, signal.SIGKILL)
        if process != "RayTrainWorker":
            wait_for(lambda ended=drivers: not alive(ended), "the driver's end")
    output, _ = workflow.communicate()
    assert workflow.returncode == 0, output
    assert "Traceback" not in output
    assert output.count("Trying to restart job") == 2, output
    assert "going on from step" in checkout.read(f"{RUN}/train.log")
    assert_equal_results(checkout, undisturbed)


def test_a_killed_snakemake(begun, undisturbed, tmp_path):
    """What it has started goes on meanwhile; the same command waits for it, and loses nothing."""
    checkout = begun.copy(tmp_path / "checkout")
    workflow = start(checkout)
    wait_for_a_further_checkpoint(checkout)
    [driver] = descendants(workflow, "maftp")
    workflow.kill()
    workflow.wait()
    os.kill(driver, 0)  # it goes on
    checkout.snakemake("results/table.csv", params=PARAMS)
    assert_equal_results(checkout, undisturbed)


def test_a_mistake_is_said_again_at_once_and_not_tried_again(begun, tmp_path):
    """Snakemake repeats what fails; a loss that is not finite would be so each time."""
    checkout = begun.copy(tmp_path / "checkout")
    (checkout.path / "wrong.yaml").write_text(yaml.safe_dump({"train": {"learning_rate": 1e6}}))
    weights = f"{RUN}/weights.safetensors"
    done = checkout.snakemake(weights, params=[*PARAMS, "wrong.yaml"], ok=False)
    output = done.stdout + done.stderr
    said = re.findall(r"^maftp train: (.*)$", output, re.M)
    assert done.returncode != 0
    assert len(said) == 3 and len(set(said)) == 1, output  # the first, and two retries
    assert "not finite" in said[0] and "train.learning_rate" in said[0]
    assert "Traceback" not in output
    tried, log = checkout.path / RUN / "checkpoints/failure.json", checkout.path / RUN / "train.log"
    assert tried.stat().st_mtime < log.stat().st_mtime
    assert "loss" not in re.sub(r"stopped.*", "", log.read_text(), flags=re.S)  # no step was done


def test_a_wrong_input_is_found_before_ray_starts(begun, tmp_path):
    checkout = begun.copy(tmp_path / "checkout")
    texts = sorted((checkout.path / "weights/text").rglob("*.safetensors"))
    wrong = next(text for text in texts if "coco" not in text.name)
    clip = next((checkout.path / "weights/clip").glob("*.safetensors"))
    arguments = ["--clip", clip, "--text", wrong, "--out", tmp_path / "run"]
    done = checkout.maftp("train", *arguments, "--params", "params.yaml", *PARAMS, ok=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"maftp train: {wrong}: text embeddings are of another vocabulary" in done.stderr
    assert not (tmp_path / "run").exists()
