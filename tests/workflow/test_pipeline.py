"""The whole workflow with the real Snakemake, Ray, Detectron2 and MLflow, at its smallest size."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import BIN, Checkout

pytestmark = pytest.mark.slow

SMOKE = "smoke.yaml"
SCORES = ["A-847", "A-150", "PC-459", "PC-59", "PAS-20", "PQ", "SQ", "RQ"]
COSTS = ["trainable_parameters", "training_seconds", "peak_host_memory_mb"]


def planned(checkout: Checkout, *params: str) -> dict[str, int]:
    """Return how many jobs of each rule a dry run of the table plans."""
    done = checkout.snakemake("-n", "results/table.csv", params=params)
    output = done.stdout + done.stderr
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", output, re.M)}


def test_the_table_has_a_row_per_variant_and_its_columns(finished):
    table = pd.read_csv(finished.path / "results/table.csv")
    assert list(table.columns[:14]) == ["experiment", "variant", "seed", *SCORES, *COSTS]
    assert list(table.variant) == ["maftp", "fcclip", "fcclip_shuffled"]
    assert set(table.experiment) == {"smoke"}
    scores = table[SCORES].to_numpy()
    assert ((scores >= 0) & (scores <= 100)).all()
    trained = table[table.variant != "fcclip_shuffled"]
    assert (trained[COSTS] > 0).all(axis=None)


def test_a_second_run_has_nothing_to_do(finished):
    done = finished.snakemake("-n", "results/table.csv", params=[SMOKE])
    assert "Nothing to be done" in done.stdout + done.stderr


def test_nothing_half_written_remains(finished):
    kept = {".snakemake", ".params"}
    hidden = [path for path in finished.path.rglob(".*") if not kept & set(path.parts)]
    assert not [path for path in hidden if path.is_dir() or path.suffix == ".part"]


def test_an_overlay_shows_every_benchmark(finished):
    for benchmark in ("A-847", "A-150", "PC-459", "PC-59", "PAS-20", "ADE-panoptic"):
        folder = finished.path / "results/smoke/maftp/seed0/evaluation" / benchmark
        assert list(folder.glob("*.png")), benchmark


def test_runs_are_in_mlflow(finished):
    import sqlite3

    with sqlite3.connect(finished.path / "results/mlflow.db") as database:
        names = {name for (name,) in database.execute("select name from runs")}
        keys = {key for (key,) in database.execute("select distinct key from metrics")}
    assert any("maftp" in name for name in names)
    assert any("rc_loss" in key for key in keys)


@pytest.mark.parametrize(
    ("change", "reruns", "keeps"),
    [
        ({"train": {"rc_weight": 0.2}}, {"train": 2, "evaluate": 3}, {"convert", "clip", "world"}),
        ({"evaluate": {"object_threshold": 0.3}}, {"evaluate": 3}, {"train", "convert", "clip"}),
        ({"clip": {"templates": 1}}, {"text_embeddings": 6, "train": 2}, {"convert", "clip"}),
        ({"tracking": {"uri": "sqlite:///results/other.db"}}, {}, {"train", "evaluate"}),
    ],
    ids=["recipe", "evaluation", "templates", "tracking"],
)
def test_a_parameter_reruns_what_depends_on_it(finished, tmp_path, change, reruns, keeps):
    checkout = finished.copy(tmp_path / "copy")
    (checkout.path / "change.yaml").write_text(yaml.safe_dump(change))
    plan = planned(checkout, SMOKE, "change.yaml")
    assert {rule: plan.get(rule, 0) for rule in reruns} == reruns
    assert not keeps & set(plan)


@pytest.mark.parametrize(
    "experiment", ["maftp_base", "maftp_large", "maftp_large_panoptic", "fcclip_base"]
)
def test_official_experiments_are_planned_from_a_clean_checkout(checkout, experiment):
    plan = planned(checkout, f"workflow/experiments/{experiment}.yaml")
    assert plan["train"] == 1
    assert {"download", "unpack", "convert", "clip", "text_embeddings", "table"} <= set(plan)
    assert "world" not in plan


def test_dag_and_lint(checkout):
    assert "digraph" in checkout.snakemake("--dag", params=[SMOKE]).stdout
    checkout.snakemake("--lint")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {iteratons: 5}", "key 'train.iteratons' is not known"),
        ("train: {iterations: soon}", "key 'train.iterations' is 'soon'"),
        ("benchmarks: [A-151]", "benchmark 'A-151' is not in the catalog"),
        ("variants: {}", "variants: there is none"),
    ],
)
def test_a_wrong_parameter_ends_in_a_sentence(checkout, text, sentence):
    (checkout.path / "wrong.yaml").write_text(text)
    done = checkout.snakemake(params=["wrong.yaml"], ok=False)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
    assert not (checkout.path / "results").exists()
    by_hand = checkout.maftp("params", "--params", "params.yaml", "wrong.yaml", ok=False)
    if "benchmark" not in sentence and "there is none" not in sentence:
        assert by_hand.returncode == 1
        assert by_hand.stderr.count("\n") == 1 and sentence in by_hand.stderr


def assert_one_sentence(done: subprocess.CompletedProcess, *parts: str) -> None:
    output = done.stdout + done.stderr
    assert done.returncode != 0
    lines = [line for line in output.splitlines() if line.startswith("maftp ")]
    assert len(lines) == 1, output
    assert all(part in lines[0] for part in parts), lines[0]
    assert "Traceback" not in output


def test_a_truncated_archive_names_the_file(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    root = checkout.path / "datasets/miniature"
    archive = root / "archives/VOCtrainval_11-May-2012.tar"
    archive.write_bytes(archive.read_bytes()[:5000])
    stamp = root / "archives/voc2012.unpacked.json"
    stamp.unlink()
    shutil.rmtree(root / "VOCdevkit/VOC2012")
    done = checkout.snakemake(str(stamp.relative_to(checkout.path)), params=[SMOKE], ok=False)
    assert_one_sentence(done, archive.name)
    assert not stamp.exists() and not (root / "VOCdevkit/VOC2012").exists()


def test_a_corrupted_label_names_the_file(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    root = checkout.path / "datasets/miniature"
    label = next((root / "ade/ADEChallengeData2016/annotations/validation").glob("*.png"))
    label.write_bytes(label.read_bytes()[:60])
    manifest = root / "manifests/ade20k_150.json"
    manifest.unlink()
    shutil.rmtree(root / "ade/ADEChallengeData2016/annotations_detectron2")
    done = checkout.snakemake(str(manifest.relative_to(checkout.path)), params=[SMOKE], ok=False)
    assert_one_sentence(done, label.name)
    assert not manifest.exists()


def test_a_wrong_checkpoint_names_the_file_and_an_entry(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    evaluation = checkout.path / "results/smoke/maftp/seed0/evaluation/PAS-20.json"
    evaluation.unlink()
    weights = checkout.path / "results/smoke/maftp/seed0/weights.safetensors"
    shutil.copy(next((checkout.path / "weights/clip").glob("*.safetensors")), weights)
    target = str(evaluation.relative_to(checkout.path))
    done = checkout.snakemake(target, "--rerun-triggers", "params", params=[SMOKE], ok=False)
    assert_one_sentence(done, "weights.safetensors")
    assert not evaluation.exists()


def test_training_killed_in_the_middle_resumes_to_the_same_table(finished, tmp_path):
    checkout = finished.copy(tmp_path / "copy")
    for variant in ("maftp", "fcclip", "fcclip_shuffled"):
        shutil.rmtree(checkout.path / "results/smoke" / variant)
    longer = {"train": {"iterations": 60}, "benchmarks": ["PAS-20", "ADE-panoptic"]}
    (checkout.path / "longer.yaml").write_text(yaml.safe_dump(longer))
    reference = checkout.copy(tmp_path / "reference")
    files = [SMOKE, "longer.yaml"]
    command = [BIN / "snakemake", "--cores", "2", "results/table.csv", "--configfile", *files]
    with subprocess.Popen(
        list(map(str, command)),
        cwd=checkout.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        kill_training(checkout, after_checkpoints=2)
        running.wait()
    assert running.returncode == 0  # it has started the training again
    logs = [checkout.read(f"results/smoke/{v}/seed0/train.log") for v in ("maftp", "fcclip")]
    assert any("going on from" in log for log in logs)
    reference.snakemake("results/table.csv", params=files)
    costs = ["training_seconds", "peak_host_memory_mb"]
    tables = [pd.read_csv(c.path / "results/table.csv") for c in (checkout, reference)]
    pd.testing.assert_frame_equal(*(table.drop(columns=costs) for table in tables))


def kill_training(checkout: Checkout, *, after_checkpoints: int) -> None:
    """Send SIGKILL to the training driver once so many checkpoints are on disk."""
    deadline = time.monotonic() + 1800
    while time.monotonic() < deadline:
        runs = (checkout.path / "results/smoke").glob("*/seed0/checkpoints")
        if any(count_checkpoints(run) >= after_checkpoints for run in runs):
            for pid in training_drivers(checkout):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.2)
    pytest.fail("no checkpoint was written in time")


def count_checkpoints(folder: Path) -> int:
    return len(list(folder.glob("step-*")))


def training_drivers(checkout: Checkout) -> list[int]:
    """Return the processes that run `maftp train` in the checkout."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            here = os.readlink(process / "cwd") == str(checkout.path)
        except OSError:
            continue
        if here and b"train" in arguments and any(a.endswith(b"maftp") for a in arguments):
            found.append(int(process.name))
    return found
