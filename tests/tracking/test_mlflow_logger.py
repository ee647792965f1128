"""MLflow runs: found again, not doubled, and never in the way."""

from __future__ import annotations

import logging
import math
import socket
import subprocess
import sys
import time

import pytest

from maftp.tracking import mlflow_logger
from maftp.tracking.mlflow_logger import MlflowLogger
from maftp.tracking.mlflow_store import MlflowStore

MANIFEST = {
    "params": {"model": {"name": "maft_plus"}, "train": {"power": 0.9, "rc_scales": [1, 2, 4]}},
    "commit": "c0ffee", "dirty": False, "params_digest": "p", "source_digest": "s",
    "device": "cpu", "python": "3", "host": "here", "platform": "linux",
    "command": ["maftp", "train"], "packages": {"torch": "2"}, "inputs": {"data/a.json": "ab12"},
}  # fmt: skip
STEPS = [{"step": 20 * i, "loss": 4.0 - i} for i in range(1, 4)]


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
    store = MlflowStore(uri=uri, experiment=experiment)
    return MlflowLogger(store, variant="maftp", seed=0, folder=folder, digest=digest)


def runs_of(client, folder):
    """Return the runs of a folder, the newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f'tags.`maftp.folder` = "{folder}"')


def run_id(client, folder):
    return runs_of(client, folder)[0].info.run_id


def wait_for(condition):
    deadline = time.monotonic() + 1800
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def logged(client, folder, name="loss"):
    return [(m.step, m.value) for m in client.get_metric_history(run_id(client, folder), name)]


@pytest.mark.slow
def test_a_run(uri, client, tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("step\n")
    first = tracker(uri, tmp_path)
    first.start(MANIFEST)
    for row in STEPS:
        first.log_row(row)
    first.finish(history)
    run = client.get_run(run_id(client, tmp_path))
    assert run.info.run_name == "maftp, seed 0: training" and run.info.status == "FINISHED"
    params = {"model.name": "maft_plus", "train.power": "0.9", "train.rc_scales": "[1, 2, 4]"}
    assert run.data.params == params
    tags = run.data.tags
    assert tags["maftp.params_digest"] == "p" and tags["maftp.commit"] == "c0ffee"
    assert tags["mlflow.source.git.commit"] == "c0ffee" and tags["maftp.dirty"] == "False"
    assert tags["maftp.command"] == "maftp train" and tags["maftp.host"] == "here"
    assert tags["maftp.package.torch"] == "2" and tags["maftp.sha256.data/a.json"] == "ab12"
    assert tags["maftp.row"] == "miniature/maftp/0" and tags["maftp.part"] == "training"
    groups = {"experiment": "miniature", "variant": "maftp", "seed": "0", "method": "maft_plus"}
    assert groups.items() <= tags.items()
    assert logged(client, tmp_path) == [(20, 3.0), (40, 2.0), (60, 1.0)]
    artifacts = {item.path for item in client.list_artifacts(run_id(client, tmp_path))}
    assert artifacts == {"manifest.json", "history.csv"}
    # Artifacts lie beside the SQLite file, not in the working directory.
    assert "/deep/mlruns/" in run.info.artifact_uri


@pytest.mark.slow
def test_the_machine_is_watched(uri, client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    log = tracker(uri, tmp_path)
    log.start(MANIFEST)
    wait_for(
        lambda: any(
            "system/cpu_utilization_percentage" in run.data.metrics
            for run in runs_of(client, tmp_path)
        )
    )
    log.finish()
    metrics = client.get_run(run_id(client, tmp_path)).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert "system/system_memory_usage_percentage" in metrics


@pytest.mark.slow
def test_an_interrupted_run_goes_on(uri, client, tmp_path):
    first = tracker(uri, tmp_path)
    first.start(MANIFEST)
    first.log_row(STEPS[0])
    first.log_row(STEPS[1])
    first.stop()
    before = run_id(client, tmp_path)
    assert client.get_run(before).info.status == "KILLED"
    second = tracker(uri, tmp_path)  # resumes at the checkpoint of step 20
    second.start(MANIFEST, STEPS[:1])
    second.log_row(STEPS[1])
    second.log_row(STEPS[2])
    second.finish()
    assert run_id(client, tmp_path) == before
    assert client.get_run(before).info.status == "FINISHED"
    assert [step for step, _ in logged(client, tmp_path)] == [20, 40, 60]


@pytest.mark.slow
def test_other_evaluation_parameters_do_not_stop_a_run_that_goes_on(uri, client, tmp_path):
    tracked = tracker(uri, tmp_path)
    tracked.start(MANIFEST)
    tracked.stop()
    changed = MANIFEST | {"params": {"train": {"power": 0.9}, "evaluate": {"overlays": 9}}}
    second = tracker(uri, tmp_path)
    second.start(changed, STEPS)
    second.finish()
    assert client.get_run(run_id(client, tmp_path)).data.params["evaluate.overlays"] == "9"
    assert len(logged(client, tmp_path)) == 3


@pytest.mark.slow
def test_rows_that_a_killed_driver_did_not_log(uri, client, tmp_path):
    first = tracker(uri, tmp_path)
    first.start(MANIFEST)
    first.stop()
    second = tracker(uri, tmp_path)
    second.start(MANIFEST, STEPS[:2])
    second.stop()
    assert [step for step, _ in logged(client, tmp_path)] == [20, 40]


@pytest.mark.slow
def test_other_parameters_are_another_run(uri, client, tmp_path):
    first = tracker(uri, tmp_path)
    first.start(MANIFEST)
    first.stop()
    before = run_id(client, tmp_path)
    other = tracker(uri, tmp_path, digest="other")
    other.start(MANIFEST)
    other.stop()
    assert run_id(client, tmp_path) != before


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False])
def test_a_training_that_begins_anew_is_another_run(uri, client, tmp_path, lost):
    first = tracker(uri, tmp_path)
    first.start(MANIFEST, STEPS)
    first.stop() if lost else first.finish()
    before = run_id(client, tmp_path)
    if lost:  # deleted on MLflow's page while the training was interrupted
        client.delete_run(before)
    second = tracker(uri, tmp_path)
    second.start(MANIFEST, STEPS)
    second.finish()
    assert run_id(client, tmp_path) != before
    assert len(logged(client, tmp_path)) == 3


@pytest.mark.slow
def test_a_failing_server_is_reported_once_and_gets_everything_later(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "store"
    file.touch()  # a file is in the way of the folder
    uri = f"sqlite:///{file}/mlflow.db"
    log = tracker(uri, tmp_path)
    with caplog.at_level(logging.WARNING):
        log.start(MANIFEST)
        for row in STEPS:
            log.log_row(row)
        wait_for(lambda: "going on without it" in caplog.text)
        file.unlink()
        log.finish()
    assert caplog.text.count("going on without it") == 1
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert [step for step, _ in logged(client, tmp_path)] == [20, 40, 60]
    assert client.get_run(run_id(client, tmp_path)).info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_stays_away_does_not_stop_a_training(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "store"
    file.touch()
    log = tracker(f"sqlite:///{file}/mlflow.db", tmp_path)
    with caplog.at_level(logging.WARNING):
        log.start(MANIFEST)
        log.log_row(STEPS[0])
        log.finish()
    assert caplog.text.count("going on without it") == 1


@pytest.mark.slow
def test_more_numbers_than_a_request_takes(uri, client, tmp_path):
    rows = [
        {"step": step, "loss": 1.0, "bad": math.nan, **{f"loss_{k}": 1.0 for k in range(14)}}
        for step in range(1, 301)
    ]
    log = tracker(uri, tmp_path)
    log.start(MANIFEST, rows)
    log.finish()
    assert logged(client, tmp_path, "loss_13") == [(step, 1.0) for step in range(1, 301)]
    assert not logged(client, tmp_path, "bad")


@pytest.mark.slow
def test_a_server_that_never_answers_delays_the_end_by_seconds(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(mlflow_logger, "_LAST_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, says nothing
        port = server.getsockname()[1]
        log = tracker(f"http://ann:S3CRET@127.0.0.1:{port}", tmp_path)
        with caplog.at_level(logging.WARNING):
            log.start(MANIFEST)
            log.log_row(STEPS[0])
            log.finish()
    assert "no answer within 2 s" in caplog.text and "S3CRET" not in caplog.text


def test_a_run_that_never_began_is_not_logged(tmp_path, caplog):
    tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).stop()
    assert not list(tmp_path.iterdir()) and not caplog.text


def test_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracker("sqlite:///x.db", tmp_path)._store.uri == "http://127.0.0.1:9"


START_A_RUN = """
import sys
from pathlib import Path
from maftp.tracking.mlflow_logger import MlflowLogger
from maftp.tracking.mlflow_store import MlflowStore

uri, name = sys.argv[1:]
Path(name).mkdir()
store = MlflowStore(uri=uri, experiment="new")
run = MlflowLogger(store, variant=name, seed=0, folder=Path(name), digest="abc")
run.start({"params": {}})
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
    assert {run.info.run_name for run in found} == {
        f"{name}, seed 0: training" for name in names
    }, messages
    assert all(run.data.metrics == {"loss": 3.0} for run in found), messages
