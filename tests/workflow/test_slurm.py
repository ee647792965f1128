"""The workflow through real Slurm: two virtual nodes on this machine, and training on both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from maftp.config import load_params
from tests.workflow.conftest import BIN, ROOT, Checkout
from tests.workflow.virtual_cluster import VirtualCluster, virtual_cluster, why_not

reason = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
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
    finished.copy(path)
    shutil.rmtree(path / "results")
    values = SMALLER | {"resources": {"nodes": nodes}}
    (path / "smaller.yaml").write_text(yaml.safe_dump(values))
    return Checkout(path)


def through_slurm(
    checkout: Checkout, cluster: VirtualCluster, *options: str, params: list[str] = PARAMS
) -> subprocess.CompletedProcess:
    profile = checkout.path / "workflow/profiles/slurm"
    command = [
        BIN / "snakemake", "--workflow-profile", profile, *WITHOUT_ACCOUNTING, *options,
        "results/table.csv", "--configfile", *params,
    ]  # fmt: skip
    return subprocess.run(
        list(map(str, command)), cwd=checkout.path, env=os.environ | cluster.environment,
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_table_is_that_of_the_local_run(finished, slurm, tmp_path):
    # The data are there already: what they are made by are jobs of one node, as evaluation is.
    here, there = (smaller(finished, tmp_path / name, nodes=n) for name, n in PLACES.items())
    here.snakemake("results/table.csv", params=PARAMS)
    done = through_slurm(there, slurm)
    logs = "\n".join(log.read_text() for log in there.path.glob(".snakemake/slurm_logs/**/*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    assert "starting Ray on n1, n2" in there.read("results/smoke/maftp/seed0/train.log")
    one, other = (pd.read_csv(c.path / "results/table.csv") for c in (here, there))
    pd.testing.assert_frame_equal(one.drop(columns=COSTS), other.drop(columns=COSTS))


@pytest.fixture(scope="module")
def large_nodes():
    with virtual_cluster(cpus=64, memory_mb=400_000, gpus=8) as cluster:
        yield cluster


@pytest.mark.parametrize("experiment", ["maftp_base", "maftp_large_panoptic_released"])
def test_jobs_get_what_the_official_file_says(finished, large_nodes, tmp_path, experiment):
    """A training that ends for want of real GPUs, an evaluation and an embedding."""
    checkout = Checkout(tmp_path / "checkout")
    finished.copy(checkout.path)
    for folder in ("results/smoke/maftp", "weights/text"):
        shutil.rmtree(checkout.path / folder)
    official = load_params(ROOT / "params.yaml", ROOT / f"workflow/experiments/{experiment}.yaml")
    weights = str(finished.path / "results/smoke/maftp/seed0/weights.safetensors")
    overlay = {
        "benchmarks": ["PAS-20"],
        "resources": official.resources.model_dump(mode="json") | {"train_retries": 0},
        "execution": official.execution.model_dump(mode="json"),
        "variants": {"maftp": {}, "scored": {"weights": weights}},
        "train": {"batch_size": official.train.batch_size},
    }
    (checkout.path / "official.yaml").write_text(yaml.safe_dump(overlay))
    through_slurm(
        checkout,
        large_nodes,
        "--retries",
        "0",
        "--keep-going",
        params=["smoke.yaml", "official.yaml"],
    )
    jobs = {}
    for line in large_nodes.run("scontrol", "show", "job", "--oneliner").splitlines():
        facts = dict(re.findall(r"(\w+(?:/\w+)?)=(\S*)", line))
        if facts["WorkDir"] == str(checkout.path):
            rule = re.search(r"rule_(\w+?)(?:_wildcards|$)", facts["Comment"])[1]
            jobs[rule] = facts
    execution, wanted = official.execution, official.resources
    asked = {
        "train": (wanted.train, execution.workers * execution.gpus_per_worker),
        "evaluate": (wanted.evaluate, 1),
        "text_embeddings": (wanted.prepare, 0),
    }
    assert set(asked) <= set(jobs)
    for rule, (need, gpus) in asked.items():
        got = jobs[rule]
        assert in_mb(got["MinMemoryNode"]) == pytest.approx(need.memory_mb, rel=0.001), rule
        assert in_minutes(got["TimeLimit"]) == need.minutes, rule
        found = re.search(r"gpu:(\d+)", got.get("TresPerNode", "") + got.get("TresPerJob", ""))
        assert int(found[1] if found else 0) == gpus, rule
    assert int(jobs["train"]["NumCPUs"]) == execution.workers * execution.cpus_per_worker


def in_mb(size: str) -> float:
    """Read Slurm's 96000M or 93.75G."""
    return float(size[:-1]) * {"M": 1, "G": 1024}[size[-1]]


def in_minutes(limit: str) -> int:
    """Read Slurm's days-hours:minutes:seconds."""
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + minutes
