"""The workflow through real Slurm: two virtual nodes on this machine, and training on both."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import BIN, Checkout
from tests.workflow.virtual_cluster import VirtualCluster, virtual_cluster, why_not

reason = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(reason is not None, reason=f"Slurm: {reason}"),
]

SMALLER = {
    "benchmarks": ["PAS-20"],
    "train": {"iterations": 3},
    "execution": {"workers": 2},
    "variants": {"maftp": {}},
}
WITHOUT_ACCOUNTING = (
    "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "5",
)  # fmt: skip
PARAMS = ["smoke.yaml", "smaller.yaml"]
PLACES = {"here": 1, "there": 2}
"""Nodes of each run."""
COSTS = ["training_seconds", "peak_host_memory_mb"]


@pytest.fixture(scope="module")
def slurm():
    with virtual_cluster() as cluster:
        yield cluster


def smaller(finished: Checkout, path: Path, *, nodes: int) -> Checkout:
    """A copy of `finished` whose data are there and whose results are to be made."""
    shutil.copytree(finished.path, path, symlinks=True)
    shutil.rmtree(path / "results")
    values = SMALLER | {"resources": {"nodes": nodes}}
    (path / "smaller.yaml").write_text(yaml.safe_dump(values))
    return Checkout(path)


def through_slurm(checkout: Checkout, cluster: VirtualCluster) -> subprocess.CompletedProcess:
    profile = checkout.path / "workflow/profiles/slurm"
    command = [
        BIN / "snakemake", "--workflow-profile", profile, *WITHOUT_ACCOUNTING,
        "results/table.csv", "--configfile", *PARAMS,
    ]  # fmt: skip
    return subprocess.run(
        list(map(str, command)), cwd=checkout.path, env=os.environ | cluster.environment,
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip


def test_the_table_is_that_of_the_local_run(finished, slurm, tmp_path):
    # The data are there already: what they are made by are jobs of one node, as evaluation is.
    here, there = (smaller(finished, tmp_path / name, nodes=n) for name, n in PLACES.items())
    here.snakemake("results/table.csv", params=PARAMS, timeout=900)
    done = through_slurm(there, slurm)
    logs = "\n".join(log.read_text() for log in there.path.glob(".snakemake/slurm_logs/**/*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    assert "starting Ray on n1, n2" in there.read("results/smoke/maftp/seed0/train.log")
    one, other = (pd.read_csv(c.path / "results/table.csv") for c in (here, there))
    pd.testing.assert_frame_equal(one.drop(columns=COSTS), other.drop(columns=COSTS))
