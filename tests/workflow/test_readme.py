"""What the README tells people to type, typed in a finished checkout."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import time

import numpy as np
import pytest
import requests
from PIL import Image

from tests.workflow.conftest import BIN, ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M))


COMMANDS = [shlex.split(line, comments=True) for line in blocks("sh").splitlines() if line.strip()]
SERVER = ["mlflow", "ui"]


@pytest.fixture(scope="module")
def home(finished, tmp_path_factory):
    """A copy of the finished checkout, under the names that the README uses."""
    checkout = finished.copy(tmp_path_factory.mktemp("readme") / "copy")
    (checkout.path / "results/miniature").symlink_to("smoke")
    return checkout


def test_make_targets_exist():
    targets = [command[1] for command in COMMANDS if command[0] == "make"]
    assert targets[:2] == ["table", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c[0] == "snakemake"], ids=lambda command: " ".join(command)
)
def test_snakemake_commands(checkout, command):
    """Planned only where the README runs it; test_pipeline.py runs the same target."""
    options = command[1:] if "-n" in command else ["-n", *command[1:]]
    done = checkout.run(BIN / "snakemake", "--cores", "2", *options)
    assert "table" in done.stdout + done.stderr


def test_the_mlflow_page_lists_the_runs(home):
    (command,) = [c for c in COMMANDS if c[:2] == SERVER]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [BIN / command[0], *command[1:], "--port", str(port)],
        cwd=home.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = ask(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search")
    finally:
        server.terminate()
        server.wait()
    assert "smoke" in {experiment["name"] for experiment in found["experiments"]}


def ask(url: str) -> dict:
    """Return the server's answer as soon as it gives one."""
    deadline = time.monotonic() + 1800
    while time.monotonic() < deadline:
        try:
            return requests.post(url, json={"max_results": 10}, timeout=60).json()
        except requests.ConnectionError:
            time.sleep(0.5)
    pytest.fail("mlflow ui did not start")


def test_the_python_example(home, monkeypatch):
    """With the miniature's weights in place of the released ones, which are not ours to ship."""
    monkeypatch.chdir(home.path)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    released = '"maftp_large_released", weights="maftp_l.pth"'
    example = blocks("python")
    assert released in example
    own = '"smoke.yaml", weights="results/smoke/maftp/seed0/weights.safetensors"'
    names = {}
    exec(example.replace(released, own), names)
    found = names["found"]
    assert found.labels.shape == (120, 150) and found.labels.max() < 3
    assert sum(region.area for region in found.regions) == 120 * 150


def test_the_catalogs_snakefile_plans_the_same(checkout):
    """The Snakemake workflow catalog looks for workflow/Snakefile."""
    jobs, catalogs = (
        dict(re.findall(r"^(\w+) +(\d+)$", checkout.snakemake("-n", *which).stdout, re.M))
        for which in ((), ("--snakefile", "workflow/Snakefile"))
    )
    assert jobs["all"] == catalogs.pop("catalog_default") == "1"
    assert int(jobs.pop("total")) == int(catalogs.pop("total")) > 20
    assert jobs == catalogs | {"all": "1"}
