"""Folder of a run: what is kept, what is thrown away, what is published in which order."""

from __future__ import annotations

import json

import pytest
import torch

from maftp.errors import TrainingError
from maftp.training.checkpoint import step_folder
from maftp.training.place import Place
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
        place=Place(rank=0, world_size=1, device=torch.device("cpu")),
    )
    return folder


def test_publish(trained):
    assert trained.trained and not trained.complete
    trained.publish({"seed": 0})
    assert trained.complete and not trained.checkpoints.exists()
    manifest = json.loads(trained.manifest.read_text())
    assert manifest["seed"] == 0 and manifest["steps"] == 12
    assert {"training_seconds", "trainable_parameters", "peak_memory_mb"} <= manifest.keys()
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


def test_begin_keeps_the_newest_checkpoint(trained):
    (trained.checkpoints / "checkpoint_manager_snapshot.json").write_text("{")
    (trained.checkpoints / ".step-00000012.x").mkdir()
    trained.begin()
    kept = {path.name for path in trained.checkpoints.iterdir()}
    assert kept == {"step-00000012", "weights.safetensors"}


def test_begin_discards_another_run(trained, caplog):
    other = RunFolder(trained.path, digest="other")
    other.begin()
    assert list(other.checkpoints.iterdir()) == []
    assert "starting anew" in caplog.text


def test_begin_discards_an_unreadable_checkpoint(trained):
    (step_folder(trained.checkpoints, 12) / "state.json").write_text("{")
    (trained.checkpoints / "weights.safetensors").unlink()
    trained.begin()
    assert list(trained.checkpoints.iterdir()) == []


def test_nothing_to_publish(tmp_path):
    folder = RunFolder(tmp_path, digest="abc")
    with pytest.raises(TrainingError, match="did not finish"):
        folder.publish({})
    assert not folder.manifest.exists()
