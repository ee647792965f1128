"""MLflow runs: found again, not doubled, and never in the way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from maftp.tracking.mlflow_logger import MlflowLogger, flatten

MANIFEST = {
    "params": {"train": {"power": 0.9, "rc_scales": [1, 2, 4]}},
    "commit": None, "dirty": None, "params_digest": "p", "source_digest": "s",
    "device": "cpu", "python": "3",
}  # fmt: skip


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A SQLite file in a folder that is not there yet; its tables are made once."""
    return f"sqlite:///{tmp_path_factory.mktemp('results') / 'deep' / 'mlflow.db'}"


@pytest.fixture
def client(uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def tracker(uri, folder, *, digest="abc", experiment="miniature"):
    return MlflowLogger(
        uri=uri, experiment=experiment, run_name="maftp-seed0", folder=folder, digest=digest
    )


def run_id(folder):
    return json.loads((folder / "mlflow.json").read_text())["run_id"]


@pytest.mark.slow
def test_a_run(uri, client, tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("step\n")
    first = tracker(uri, tmp_path)
    first.start(MANIFEST)
    first.log_row({"step": 20, "loss": 3.0, "loss_ce": 2.0})
    first.log_row({"step": 40, "loss": 2.0, "loss_ce": 1.0})
    first.finish(history)
    run = client.get_run(run_id(tmp_path))
    assert run.info.run_name == "maftp-seed0" and run.info.status == "FINISHED"
    assert run.data.params == {"train.power": "0.9", "train.rc_scales": "[1, 2, 4]"}
    assert run.data.tags["maftp.params_digest"] == "p"
    logged = client.get_metric_history(run_id(tmp_path), "loss")
    assert [(m.step, m.value) for m in logged] == [(20, 3.0), (40, 2.0)]
    artifacts = {item.path for item in client.list_artifacts(run_id(tmp_path))}
    assert artifacts == {"manifest.json", "history.csv"}
    # Artifacts lie beside the SQLite file, not in the working directory.
    assert "/deep/mlruns/" in run.info.artifact_uri


@pytest.mark.slow
def test_an_interrupted_run_goes_on(uri, client, tmp_path):
    first = tracker(uri, tmp_path)
    first.start(MANIFEST)
    first.log_row({"step": 20, "loss": 3.0})
    first.log_row({"step": 40, "loss": 2.0})
    second = tracker(uri, tmp_path)  # resumes at the checkpoint of step 20
    second.start(MANIFEST, [{"step": 20, "loss": 3.0}])
    second.log_row({"step": 40, "loss": 2.0})
    second.log_row({"step": 60, "loss": 1.0})
    logged = client.get_metric_history(run_id(tmp_path), "loss")
    assert [m.step for m in logged] == [20, 40, 60]


@pytest.mark.slow
def test_rows_that_a_killed_driver_did_not_log(uri, client, tmp_path):
    tracker(uri, tmp_path).start(MANIFEST)
    rows = [{"step": 20, "loss": 3.0}, {"step": 40, "loss": 2.0}]
    tracker(uri, tmp_path).start(MANIFEST, rows)
    logged = client.get_metric_history(run_id(tmp_path), "loss")
    assert [m.step for m in logged] == [20, 40]


@pytest.mark.slow
def test_other_parameters_are_another_run(uri, client, tmp_path):
    tracker(uri, tmp_path).start(MANIFEST)
    first = run_id(tmp_path)
    tracker(uri, tmp_path, digest="other").start(MANIFEST)
    assert run_id(tmp_path) != first


@pytest.mark.slow
def test_a_run_the_server_lost_is_made_anew(uri, client, tmp_path):
    (tmp_path / "mlflow.json").write_text(
        json.dumps({"uri": uri, "digest": "abc", "run_id": "0" * 32, "step": 40})
    )
    tracker(uri, tmp_path).start(MANIFEST)
    assert client.get_run(run_id(tmp_path)).info.run_name == "maftp-seed0"


@pytest.mark.slow
def test_evaluations_are_nested(uri, client, tmp_path):
    log = tracker(uri, tmp_path, experiment="nested")
    log.start(MANIFEST)
    log.finish()
    log.log_evaluation("A-150", {"mIoU": 30.0, "PQ": float("nan")})
    log.log_evaluation("A-150", {"mIoU": 31.0})
    log.log_evaluation("PC-59", {"mIoU": 50.0})
    experiment = client.get_experiment_by_name("nested").experiment_id
    wanted = f"tags.`mlflow.parentRunId` = '{run_id(tmp_path)}'"
    children = client.search_runs([experiment], filter_string=wanted)
    scores = {c.data.tags["maftp.benchmark"]: c.data.metrics for c in children}
    assert scores == {"A-150": {"mIoU": 31.0}, "PC-59": {"mIoU": 50.0}}
    assert {c.info.status for c in children} == {"FINISHED"}


@pytest.mark.slow
def test_evaluation_without_training_makes_a_run(uri, client, tmp_path):
    tracker(uri, tmp_path).log_evaluation("A-150", {"mIoU": 30.0})
    assert client.get_run(run_id(tmp_path)).info.run_name == "maftp-seed0"


@pytest.mark.slow
def test_a_failing_server_is_reported_once(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "file"
    file.touch()
    log = tracker(f"sqlite:///{file}/mlflow.db", tmp_path)  # a file is in the way of the folder
    with caplog.at_level(logging.WARNING):
        log.start(MANIFEST)
        log.log_row({"step": 20, "loss": 3.0})
        log.finish()
    assert caplog.text.count("going on without it") == 1


def test_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracker("sqlite:///x.db", tmp_path)._uri == "http://127.0.0.1:9"


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {
        "a.b": "1", "a.c.d": "None", "e": "[1, 2]"
    }  # fmt: skip


START_A_RUN = """
import sys
from pathlib import Path
from maftp.tracking.mlflow_logger import MlflowLogger

uri, name = sys.argv[1:]
Path(name).mkdir()
run = MlflowLogger(uri=uri, experiment="new", run_name=name, folder=Path(name), digest="abc")
run.start({"params": {}, **dict.fromkeys(
    ("commit", "dirty", "params_digest", "source_digest", "device", "python"))})
run.log_row({"step": 20, "loss": 3.0})
run.finish()
"""


@pytest.mark.slow
def test_runs_that_begin_at_once_are_all_there(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    names = ["a", "b", "c"]
    command = [sys.executable, "-c", START_A_RUN, uri]
    runs = [
        subprocess.Popen([*command, name], cwd=tmp_path, stderr=subprocess.PIPE) for name in names
    ]
    messages = [run.communicate()[1].decode() for run in runs]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [e for e in client.search_experiments() if e.name == "new"]
    assert len(experiments) == 1, messages
    found = client.search_runs([experiments[0].experiment_id])
    assert {run.info.run_name for run in found} == set(names), messages
    assert all(run.data.metrics == {"loss": 3.0} for run in found), messages
