"""The MLflow store of a finished experiment, read back: through its interface and in a browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.workflow.conftest import ROOT

pytestmark = pytest.mark.slow

BENCHMARKS = {"A-847", "A-150", "PC-459", "PC-59", "PAS-20", "ADE-panoptic"}


@pytest.fixture(scope="module")
def uri(finished) -> str:
    return f"sqlite:///{finished.path}/results/mlflow.db"


@pytest.fixture(scope="module")
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture(scope="module")
def runs(client) -> list:
    experiment = client.get_experiment_by_name("smoke").experiment_id
    return list(client.search_runs([experiment]))


@pytest.fixture(scope="module")
def rows(runs) -> dict:
    """Return the runs that are rows of the table, by (variant, seed)."""
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    found = {tuple(run.data.tags["maftp.row"].split("/")[1:]): run for run in parents}
    assert len(found) == len(parents)
    return found


def artifacts(client, run, folder=None) -> set[str]:
    return {item.path for item in client.list_artifacts(run.info.run_id, folder)}


def test_every_row_of_the_table_has_its_run(finished, rows):
    table = pd.read_csv(finished.path / "results/table.csv", dtype={"seed": str})
    assert {(row.variant, row.seed) for row in table.itertuples()} == set(rows)
    for row in table.to_dict("records"):
        metrics = rows[row["variant"], row["seed"]].data.metrics
        result = finished.read(f"results/smoke/{row['variant']}/seed0/evaluation/A-150.json")
        assert metrics["A-150"] == json.loads(result)["scores"]["mIoU_b"]
        assert round(metrics["A-150"], 2) == row["A-150"] and round(metrics["PQ"], 2) == row["PQ"]


def test_every_run_tells_where_it_comes_from(runs, rows, client):
    assert len(runs) == 3 * (1 + len(BENCHMARKS)) + 2  # two trainings
    for run in runs:
        tags = run.data.tags
        assert run.info.status == "FINISHED"
        assert "maftp.commit" in tags or not (ROOT / ".git").exists()
        assert tags["maftp.command"].startswith("maftp ")
        assert tags["maftp.host"] and tags["maftp.package.torch"]
        assert any(key.startswith("maftp.sha256.datasets/miniature/manifests/") for key in tags)
        assert run.data.params["model.name"] in {"maftp", "fcclip"}
        assert run.data.metrics and artifacts(client, run)
    for run in rows.values():
        assert run.data.tags["maftp.table"] == "results/smoke/table.csv"
        assert "dvc.results/smoke/fcclip/seed0/weights.safetensors" in run.data.tags or (
            "dvc.results/smoke/maftp/seed0/weights.safetensors" in run.data.tags
        )


def nested(runs, row) -> dict:
    """Return the runs below a row, by what they are."""
    below = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == row.info.run_id]
    return {run.data.tags["maftp.part"]: run for run in below}


def test_metrics_by_step_and_artifacts(runs, rows, client, finished):
    history = pd.read_csv(finished.path / "results/smoke/maftp/seed0/history.csv")
    training = nested(runs, rows["maftp", "0"])["training"]
    assert training.info.run_name == "maftp, seed 0: training"
    assert any(name.startswith("system/") for name in training.data.metrics)
    logged = client.get_metric_history(training.info.run_id, "loss")
    assert [(m.step, m.value) for m in logged] == list(zip(history.step, history.loss, strict=True))
    names = {"params.yaml", "manifest.json", "table.csv", "table.md"}
    for (variant, _), run in rows.items():
        trained = {"history.csv", "learning_curves.png"} if variant != "fcclip_shuffled" else set()
        assert artifacts(client, run) == names | trained


def test_evaluations_are_children_with_pictures(runs, rows, client):
    for run in rows.values():
        assert "loss" not in run.data.metrics  # MLflow's page would compare runs by it
        children = nested(runs, run)
        children.pop("training", None)
        assert set(children) == BENCHMARKS
        assert "mIoU_b" in children["A-150"].data.metrics
        assert "PQ" in children["ADE-panoptic"].data.metrics
        for name, child in children.items():
            assert artifacts(client, child) == {f"{name}.json", "overlays"}
            assert len(artifacts(client, child, "overlays")) == 1


def test_logging_again_adds_nothing(finished, runs, client):
    results = [f"results/smoke/{variant}/seed0" for variant in ("maftp", "fcclip")]
    finished.maftp(
        "runs", "log", *results, "--table", "results/smoke/table.csv",
        "--params", "params.yaml", "smoke.yaml",
    )  # fmt: skip
    experiment = client.get_experiment_by_name("smoke").experiment_id
    assert len(client.search_runs([experiment])) == len(runs)
    assert len(client.search_model_versions("name = 'smoke-maftp'")) == 1


PREDICT = """
import sys
import mlflow
import numpy as np

uri, image, labels = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/smoke-maftp@seed0")
words = ["sky", "grass, lawn", "red ball"]
np.save(labels, model.predict(np.load(image), params={"vocabulary": words}))
"""


def test_the_registered_model_gives_the_labels_of_segment(finished, client, uri, tmp_path):
    import numpy as np

    import maftp

    pictures = (finished.path / "datasets/miniature/ade").rglob("images/validation/*.jpg")
    image = maftp_image(sorted(pictures)[0])
    np.save(tmp_path / "image.npy", image[None])
    command = [sys.executable, "-c", PREDICT, uri, tmp_path / "image.npy", tmp_path / "labels.npy"]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    model = maftp.load_model(
        finished.path / "smoke.yaml",
        finished.path / "results/smoke/maftp/seed0/weights.safetensors",
    )
    wanted = maftp.segment(
        model, image, ["sky", "grass, lawn", "red ball"], short_side=160, max_side=256
    )
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy")[0], wanted.labels)
    version = client.get_model_version_by_alias("smoke-maftp", "seed0")
    assert version.tags["maftp.row"] == "smoke/maftp/0"


def maftp_image(path):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_compare_in_the_terminal(finished):
    done = finished.maftp(
        "runs", "compare", "maftp", "fcclip", "--params", "params.yaml", "smoke.yaml"
    )
    assert "model.name" in done.stdout and "A-150" in done.stdout
    assert "smoke/maftp/0" in done.stdout and "smoke/fcclip/0" in done.stdout
    lost = finished.maftp(
        "runs", "compare", "maftp", "nothing", "--params", "params.yaml", "smoke.yaml", ok=False
    )
    assert lost.returncode == 1 and "nothing: no such run" in lost.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed")
@pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None, reason="playwright is not installed"
)
def test_the_page_compares_two_variants(uri, tmp_path):
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs/mlflow_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    with pictures.serving(uri) as address, pictures.browsing() as browser:
        page = pictures.open_page(browser)
        runs = [r for r in pictures.rows(uri, "smoke") if "shuffled" not in r.info.run_name]
        pictures.open_view(page, address, runs, "scores")
        page.get_by_text("A-847", exact=True).first.wait_for()
        pictures.compare_runs(page, runs)
        page.get_by_text("Comparing 2 Runs").wait_for()
        for name in ("maftp, seed 0", "fcclip, seed 0", "model.name"):
            page.get_by_text(name, exact=True).first.wait_for()
        chosen = page.locator(".ant-select-selection-item, [class*=select-selection-item]")
        assert (
            chosen.filter(has_text="A-150").count() and not chosen.filter(has_text="loss").count()
        )
        pictures.open_view(page, address, runs, "losses")
        page.get_by_text("loss_ce", exact=True).first.wait_for()
    pictures.main(uri, "smoke", tmp_path)
    taken = {path.name for path in tmp_path.glob("*.png")}
    assert taken == {"mlflow_scores.png", "mlflow_compare.png", "mlflow_losses.png"}
