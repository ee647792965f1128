"""The whole workflow with the real Snakemake, Ray, Detectron2 and MLflow, at its smallest size."""

from __future__ import annotations

import re
import shutil
import subprocess

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from tests.workflow.conftest import Checkout

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


def test_a_card_with_its_scores_lies_beside_every_trained_weight(finished):
    table = pd.read_csv(finished.path / "results/table.csv").set_index("variant")
    cards = {path.parents[1].name: path for path in finished.path.rglob("seed0/README.md")}
    assert set(cards) == {"maftp", "fcclip"}
    for variant, path in cards.items():
        card = ModelCard.load(path)
        found = {(r.dataset_type, r.metric_type): r.metric_value for r in card.data.eval_results}
        assert found["ADE-panoptic", "pq"] == table.PQ[variant]
        assert len(found) == 8 and "maftp train" in card.text


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
        ({"baseline": "maftp"}, {"experiment_table": 1}, {"train", "evaluate"}),
        ({"tracking": {"uri": "sqlite:///results/other.db"}}, {}, {"train", "evaluate"}),
    ],
    ids=["recipe", "evaluation", "templates", "baseline", "tracking"],
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


def test_a_named_file_that_is_not_there_ends_in_a_sentence(checkout):
    (checkout.path / "wrong.yaml").write_text("train: {start: mine.pt}")
    done = checkout.snakemake(params=[SMOKE, "wrong.yaml"], ok=False)
    assert done.returncode != 0 and "MissingInput" not in done.stdout + done.stderr
    assert "\ntrain.start: there is no file mine.pt; put it there, or mend" in done.stderr
    assert not (checkout.path / "results").exists()
    checkout.snakemake("-n", "datasets", params=[SMOKE, "wrong.yaml"])  # these need no weights


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
