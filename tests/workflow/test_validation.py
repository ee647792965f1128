"""A training that is validated meanwhile: scores, pictures, the best weights, the same result."""

from __future__ import annotations

import shutil

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from maftp.training.checkpoint import weights_facts
from tests.workflow.conftest import Checkout

pytestmark = pytest.mark.slow

RUN = "results/smoke/maftp/seed0"


def test_a_validated_training(finished, tmp_path):
    path = tmp_path / "copy"
    finished.copy(path)
    shutil.rmtree(path / "results")
    validation = {"benchmark": "A-150", "period": 2, "images": 2}
    (path / "more.yaml").write_text(yaml.safe_dump({"train": {"validation": validation}}))
    files = ["smoke.yaml", "more.yaml"]
    checkout = Checkout(path)
    checkout.snakemake(f"{RUN}/best.safetensors", f"{RUN}/evaluation/A-150.json", params=files)

    history = pd.read_csv(path / RUN / "history.csv").set_index("step")
    scores = history["validation"].dropna()
    last = history.index[-1]
    assert list(scores.index) == sorted({*range(2, last + 1, 2), last})
    assert scores.between(0, 100).all()
    for step in scores.index:
        pictures = sorted((path / RUN / "validation" / f"step-{step:08d}").glob("*.png"))
        assert len(pictures) == 1  # evaluate.overlays
        with Image.open(pictures[0]) as picture:
            assert picture.width > picture.height  # image, truth and prediction side by side
    assert weights_facts(path / RUN / "best.safetensors")["variant"] == "maftp"

    # Looking changes nothing: the weights are those of the training that was not validated.
    one, other = (load_file(c.path / RUN / "weights.safetensors") for c in (checkout, finished))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    client = mlflow.MlflowClient(f"sqlite:///{path}/results/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.info.run_name == "maftp, seed 0: training"]
    logged = client.get_metric_history(run.info.run_id, "validation")
    assert [m.step for m in logged] == list(scores.index)
    assert [m.value for m in logged] == pytest.approx(list(scores))
    assert {a.path for a in client.list_artifacts(run.info.run_id, "validation")} == {
        f"validation/step-{step:08d}" for step in scores.index
    }
