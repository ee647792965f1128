"""Folder of a run: what is kept, what is thrown away, what is published in which order."""

from __future__ import annotations

import json

import pytest
import torch

from maftp.errors import TrainingError
from maftp.training.checkpoint import newest_checkpoint, read_numbers, step_folder
from maftp.training.distributed import Worker
from maftp.training.run_folder import RunFolder
from maftp.training.worker import train


@pytest.fixture
def trained(tiny, params, tmp_path):
    """A run folder whose training has ended but whose results are not published."""
    folder = RunFolder(tmp_path / "run", digest="abc")
    folder.begin()
    train(
        tiny.TinyModel(),
        tiny.tiny_batches(),
        params=params,
        seed=0,
        folder=folder.checkpoints,
        report=lambda row, path: None,
        facts={"run": "abc"},
        worker=Worker(rank=0, world_size=1, device=torch.device("cpu")),
    )
    return folder


def test_publish(trained):
    assert trained.trained and not trained.complete
    trained.publish({"seed": 0})
    assert trained.complete and not trained.checkpoints.exists()
    manifest = json.loads(trained.manifest.read_text())
    assert manifest["seed"] == 0 and manifest["steps"] == 12
    assert {"training_seconds", "trainable_parameters", "peak_host_memory_mb"} <= manifest.keys()
    lines = trained.history.read_text().splitlines()
    assert lines[0].startswith("step,loss,loss_ce,rc_loss,learning_rate")
    assert [line.split(",")[0] for line in lines[1:]] == ["3", "4", "6", "8", "9", "12"]


def test_complete_only_for_its_digest(trained):
    trained.publish({})
    assert not RunFolder(trained.path, digest="other").complete


@pytest.mark.parametrize("file", ["weights", "history", "manifest"])
def test_a_missing_result_is_not_complete(trained, file):
    trained.publish({})
    getattr(trained, file).unlink()
    assert not trained.complete


def test_begin_keeps_the_checkpoints_alone(trained):
    (trained.checkpoints / "checkpoint_manager_snapshot.json").write_text("{")
    (trained.checkpoints / ".step-00000012.x").mkdir()
    trained.begin()
    kept = {path.name for path in trained.checkpoints.iterdir()}
    assert kept == {"step-00000008", "step-00000012"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_of_another_run_are_set_aside_and_come_back(trained, caplog):
    before = names(trained.checkpoints)
    other = RunFolder(trained.path, digest="other")
    assert trained.begun and not other.begun
    other.begin()
    assert list(other.checkpoints.iterdir()) == []
    aside = trained.path / "checkpoints-replaced-abc"
    assert names(aside) == before
    assert f"other parameters, inputs or code; they are kept in {aside}" in caplog.text

    again = RunFolder(trained.path, digest="abc")
    again.begin()
    assert not aside.exists()
    assert names(again.checkpoints) == ["step-00000008", "step-00000012"]


def test_runs_that_take_turns_lose_nothing(tiny, params, tmp_path):
    """Each goes on from where it was, however often parameters change to and fro."""
    for turn in range(3):
        for digest in ("abc", "def", "ghi"):
            folder = RunFolder(tmp_path, digest=digest)
            folder.begin()
            assert len(names(folder.checkpoints)) == min(turn, 2)
            step(tiny, params, folder, until=4 * (turn + 1))
    assert names(tmp_path) == [
        "checkpoints",
        "checkpoints-replaced-abc",
        "checkpoints-replaced-def",
    ]


def step(tiny, params, folder, *, until):
    asked = iter(range(100))
    start = newest_checkpoint(folder.checkpoints)
    start = 0 if start is None else read_numbers(start)["step"]
    train(
        tiny.TinyModel(), tiny.tiny_batches(), params=params, seed=0, folder=folder.checkpoints,
        report=lambda row, path: None, facts={"run": folder.digest}, worker=Worker(),
        asked_to_stop=lambda: next(asked) + start == until,
    )  # fmt: skip


def test_a_complete_run_keeps_the_checkpoints_of_another(trained, tiny, params):
    trained.publish({})
    other = RunFolder(trained.path, digest="other")
    other.begin()
    step(tiny, params, other, until=4)
    assert trained.complete
    trained.clear()
    assert names(trained.path / "checkpoints-replaced-other") == ["heartbeat.json", "step-00000004"]
    assert not trained.checkpoints.exists()


def test_damaged_last_checkpoints_are_not_published(trained):
    (step_folder(trained.checkpoints, 12) / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="did not finish"):
        trained.publish({})
    assert not trained.manifest.exists() and not trained.weights.exists()


def test_when_no_checkpoint_is_sound_training_starts_anew(trained, caplog):
    for number in (8, 12):
        (step_folder(trained.checkpoints, number) / "state.json").write_text("{")
    trained.begin()
    assert list(trained.checkpoints.iterdir()) == []
    assert "step-00000008: damaged checkpoint (state.json differs" in caplog.text
    assert f"they are kept in {trained.path / 'checkpoints-damaged'}" in caplog.text


def test_nothing_to_publish(tmp_path):
    folder = RunFolder(tmp_path, digest="abc")
    with pytest.raises(TrainingError, match="did not finish"):
        folder.publish({})
    assert not folder.manifest.exists()


@pytest.mark.parametrize("setting", [{"micro_batch_size": 2}, {"log_period": 2}, {"workers": 1}])
def test_another_execution_goes_on_from_the_checkpoint(tiny, params, tmp_path, setting):
    """Stopped between two rows; a lower micro_batch_size gives the same losses but for rounding."""
    histories = []
    for name, recipe in (("one", params), ("other", tiny.tiny_params(**setting))):
        folder = RunFolder(tmp_path / name, digest="abc")
        folder.begin()
        step(tiny, params, folder, until=5)
        folder.begin()
        assert newest_checkpoint(folder.checkpoints).name == "step-00000005"
        step(tiny, recipe, folder, until=100)
        folder.publish({})
        rows = folder.history.read_text().splitlines()[1:]
        histories.append({row.split(",")[0]: float(row.split(",")[1]) for row in rows})
    one, other = histories
    assert other["4"] == pytest.approx(one["4"]) and other["12"] > 0
    if "micro_batch_size" in setting:
        assert other == pytest.approx(one, rel=1e-5)
