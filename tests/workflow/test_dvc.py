"""DVC over the real workflow: in a Git repository whose params.yaml is the smallest experiment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import BIN, ROOT, SMOKE, Checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="DVC works in a Git repository"),
]

VERSIONED = (
    "Snakefile", "profiles", "workflow", "envs", "maftp", "params.yaml",
    "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvc/plots", ".dvcignore", ".gitignore",
)  # fmt: skip
BENCHMARKS = ["PAS-20"]
EVALUATIONS = 3
"""Jobs, one a run."""
ALL = {"datasets", "results", "ablations"}
"""Stages; any edit of code or parameters makes DVC ask Snakemake about each."""
METRICS = "results/smoke/metrics.json"


@dataclass(frozen=True)
class Clone(Checkout):
    """A Git repository with the project's files, run by its own code."""

    def run(self, *command, ok: bool = True) -> subprocess.CompletedProcess:
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.path),
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
        }  # fmt: skip
        environment.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.path, capture_output=True, text=True, env=environment,
        )  # fmt: skip
        assert not ok or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def dvc(self, *arguments: str) -> str:
        done = self.run(BIN / "dvc", *arguments)
        return done.stdout + done.stderr

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "-m", message)

    def changed_stages(self) -> set[str]:
        """Return the stages that DVC would ask Snakemake about."""
        return set(json.loads(self.run(BIN / "dvc", "status", "--json").stdout))

    def planned(self) -> dict[str, int]:
        """Return how many jobs of each rule Snakemake would run for the table."""
        done = self.snakemake("-n", "results/smoke/table.csv")
        output = done.stdout + done.stderr
        return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", output, re.M)}

    def change_params(self, change: dict) -> None:
        path = self.path / "params.yaml"
        path.write_text(
            yaml.safe_dump(merged(yaml.safe_load(path.read_text()), change), sort_keys=False)
        )


def merged(base: dict, over: dict) -> dict:
    both = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and k in base}
    return base | over | both


def jobs_run(output: str) -> set[str]:
    """Return the rules of the jobs that Snakemake finished; `grid`, a target, makes nothing."""
    return set(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", output)) - {"grid"}


@pytest.fixture(scope="module")
def first(finished, tmp_path_factory) -> tuple[Clone, str]:
    """A repository in which `dvc repro` ran, on the data and embeddings of `finished`; its output.

    Drawing and converting anew would only take time: that they come out the same is tested
    elsewhere. Training, evaluation and table are DVC's.
    """
    clone = Clone(tmp_path_factory.mktemp("dvc") / "first")
    for name in VERSIONED:
        source, target = ROOT / name, clone.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    smallest = {"benchmarks": BENCHMARKS, "ablations": None}
    clone.change_params(yaml.safe_load(SMOKE.read_text()) | smallest)
    for name in ("datasets", "weights", ".snakemake/metadata"):
        shutil.copytree(finished.path / name, clone.path / name)
    clone.run("git", "init", "--quiet")
    clone.commit("code")
    output = clone.dvc("repro")
    clone.commit("results")
    return clone, output


@pytest.fixture
def copied(first, tmp_path) -> Clone:
    """The repository of `first`, to be changed; time stamps included."""
    shutil.copytree(first[0].path, tmp_path / "copy", symlinks=True)
    return Clone(tmp_path / "copy")


def scores(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "results/smoke/table.csv")
    return table[["experiment", "variant", "seed", "PAS-20"]]


def test_repro_gives_the_table_of_snakemake(first, finished):
    clone, output = first
    assert jobs_run(output) == {"train", "evaluate", "scores", "experiment_table"}
    pd.testing.assert_frame_equal(scores(clone.path), scores(finished.path))


def test_a_second_repro_says_that_nothing_changed(first):
    clone, _ = first
    assert "up to date" in clone.dvc("status")
    output = clone.dvc("repro")
    assert "up to date" in output and "Running stage" not in output
    assert not clone.run("git", "status", "--porcelain").stdout
    assert clone.planned() == {}


def test_push_and_pull_into_a_second_clone(first):
    clone, _ = first
    clone.dvc("push")
    second = Clone(clone.path.with_name("second"))
    clone.run("git", "clone", "--quiet", clone.path, second.path)
    assert not (second.path / "results").exists()
    second.dvc("pull")
    assert second.changed_stages() == set()
    for name in ("results/smoke/table.csv", "results/smoke/maftp/seed0/weights.safetensors"):
        assert (second.path / name).read_bytes() == (clone.path / name).read_bytes()
    assert second.planned() == {}
    # The cache is linked, not copied.
    assert (second.path / "results/smoke/maftp/seed0/weights.safetensors").stat().st_nlink > 1

    # Other parameters are still told apart, and what is made anew leaves the cache whole.
    second.change_params({"evaluate": {"object_threshold": 0.3}})
    plan = second.planned()
    assert plan["evaluate"] == EVALUATIONS and "train" not in plan and "convert" not in plan
    target = "results/smoke/maftp/seed0/evaluation/PAS-20.json"
    assert jobs_run(second.snakemake(target).stderr) == {"evaluate"}
    for path in (second.path / ".dvc/cache/files/md5").glob("??/*"):
        content = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        assert path.suffix == ".dir" or content == path.parent.name + path.name


def test_results_without_records_are_not_taken_for_good(copied):
    """As when somebody copies results: Snakemake could not notice other parameters."""
    shutil.rmtree(copied.path / ".snakemake")
    done = copied.snakemake("-n", "results/smoke/table.csv", ok=False)
    assert done.returncode != 0
    assert "snakemake --touch --forceall results/smoke/table.csv" in done.stdout + done.stderr
    copied.snakemake("--touch", "--forceall", "results/smoke/table.csv")
    assert copied.planned() == {}
    copied.change_params({"evaluate": {"object_threshold": 0.3}})
    assert copied.planned()["evaluate"] == EVALUATIONS


def test_an_experiment_changes_what_depends_on_it(copied):
    output = copied.dvc("exp", "run", "-S", "train.rc_weight=0.2")
    assert jobs_run(output) == {"train", "evaluate", "scores", "experiment_table"}
    difference = json.loads(copied.run(BIN / "dvc", "metrics", "diff", "--json", "--all").stdout)
    assert "old" in difference[METRICS]["maftp.seed0.PAS-20"]
    changed = copied.run("git", "diff", "--name-only").stdout.split()
    assert set(changed) == {"params.yaml", "dvc.lock"}
    rows = copied.run(BIN / "dvc", "exp", "show", "--csv").stdout
    assert "train.rc_weight" in rows and "0.2" in rows
    copied.dvc("plots", "diff", "HEAD", "workspace")
    page = (copied.path / "dvc_plots/index.html").read_text()
    assert all(f'"run": "{name}"' in page for name in ("maftp-seed0", "fcclip-seed0"))
    assert '"benchmark": "PAS-20"' in page and '"rev": "HEAD"' in page


@pytest.mark.parametrize(
    ("change", "jobs", "kept"),
    [
        (
            {"train": {"rc_weight": 0.2}},
            {"train": 2, "evaluate": EVALUATIONS},
            {"convert", "clip"},
        ),
        (
            {"evaluate": {"object_threshold": 0.3}},
            {"evaluate": EVALUATIONS},
            {"convert", "clip", "train"},
        ),
        ({"variants": {"again": {"train": {"iterations": 4}}}}, {"train": 1}, {"convert", "clip"}),
        ("maftp/data/convert/pascal_voc.py", {"convert": 2, "train": 2}, {"clip"}),
    ],
    ids=["recipe", "evaluation", "variant", "converter"],
)
def test_dvc_asks_and_snakemake_decides(copied, change, jobs, kept):
    if isinstance(change, dict):
        copied.change_params(change)
    else:
        path = copied.path / change
        path.write_text(path.read_text() + "\nEDITED = True\n")
    plan = copied.planned()
    assert {rule: plan.get(rule, 0) for rule in jobs} == jobs
    assert not kept & set(plan)
    assert copied.changed_stages() == ALL


def test_a_comment_reruns_nothing(copied):
    before = times(copied.path)
    path = copied.path / "maftp/losses/criterion.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert copied.planned() == {}
    assert copied.changed_stages() == ALL
    output = copied.dvc("repro")
    assert jobs_run(output) == set() and "Nothing to be done" in output
    assert copied.changed_stages() == set()
    assert copied.planned() == {}
    assert times(copied.path) == before


def times(folder: Path) -> dict[Path, int]:
    found = [path for path in (folder / "results/smoke").rglob("*") if path.suffix != ".log"]
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}
