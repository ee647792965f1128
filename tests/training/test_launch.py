"""What this machine cannot train with; training under Ray: killed drivers, broken data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maftp.config import parse_params
from maftp.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    OutputError,
    ParamsError,
    TrainingError,
)
from maftp.training.distributed import Worker
from maftp.training.launch import _file_digests, check_params, launch
from maftp.training.run_folder import RunFolder
from maftp.training.slurm import Allocation
from maftp.training.worker import train
from maftp.training.worker_files import LastWords
from tests.training.conftest import DRIVER
from tests.training.processes import alive, children, losses, wait_for


@pytest.fixture
def trained(tiny, params, tmp_path):
    """The same training as a plain function call, not yet published."""
    folder = RunFolder(tmp_path / "unbroken", digest="abc")
    folder.begin()
    train(
        tiny.TinyModel(0),
        tiny.tiny_batches(),
        params=params,
        seed=0,
        folder=folder.checkpoints,
        report=lambda row, path: None,
        facts={"run": "abc"},
        worker=Worker(rank=0, world_size=1, device=torch.device("cpu")),
    )
    return folder


@pytest.fixture
def unbroken(trained):
    """The same training, published."""
    trained.publish({})
    return trained


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_killed_driver_is_resumed(start, unbroken, tmp_path):
    out = tmp_path / "run"
    first = start(str(out), "--seconds", "0.5")
    wait_for(lambda: (out / "checkpoints" / "step-00000004").exists(), "the first checkpoint")
    processes = children(first.pid)
    assert processes
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (out / "weights.safetensors").exists()
    wait_for(lambda: not alive(processes), "Ray's processes to end with their driver")

    worker = out.with_suffix(".pids") / "0.pid"
    worker.unlink()
    second = start(str(out), "--seconds", "0.2")
    wait_for(worker.exists, "a worker")
    processes = children(second.pid)
    _, log = second.communicate()
    assert second.returncode == 0, log
    assert processes and not alive(processes), "what runs next has less memory"
    assert "going on from" in log and "step 12/12" in log and "step 3/12" not in log
    assert losses(out / "history.csv") == losses(unbroken.history)
    one, two = load_file(out / "weights.safetensors"), load_file(unbroken.weights)
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert {path.name for path in out.iterdir()} == {
        "weights.safetensors", "history.csv", "manifest.json"
    }  # fmt: skip

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [3, 4, 6, 8, 9, 12]
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_two_workers_and_broken_data(start, tmp_path):
    out = tmp_path / "run"
    first = start(str(out), "--workers", "2", "--fault", "6")
    _, log = first.communicate()
    assert first.returncode == 1
    assert "step 7: the loss is not finite (loss_ce = nan" in log.splitlines()[-1]
    assert "image_24.jpg" in log or "image_26.jpg" in log
    assert "Traceback" not in log
    assert not (out / "weights.safetensors").exists()
    assert (out / "checkpoints" / "step-00000004").exists()

    second = start(str(out), "--workers", "2")
    _, log = second.communicate()
    assert second.returncode == 0, log
    assert [row["step"] for row in losses(out / "history.csv")] == ["3", "4", "6", "8", "9", "12"]


def test_complete_run_starts_nothing(tiny, params, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr("maftp.training.launch.training_digest", lambda *_, **__: "abc")
    monkeypatch.setattr("maftp.training.launch._run", None)
    before = unbroken.weights.stat().st_mtime_ns
    weights = launch(
        params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER, out=unbroken.path
    )
    assert weights == unbroken.weights
    assert weights.stat().st_mtime_ns == before


def test_missing_input_is_named(params, tmp_path):
    with pytest.raises(DataError, match="clip.safetensors: no such file"):
        launch(
            params,
            variant="maftp",
            seed=0,
            clip=tmp_path / "clip.safetensors",
            embeddings=DRIVER,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def refuse():
    def prepare(params, **_):  # a function in a function: other processes cannot import this file
        raise DataError("text embeddings are of another vocabulary; embed this one again")

    return prepare


def test_a_mistake_is_found_before_ray_starts(params, tmp_path, monkeypatch, refuse):
    """What workers build is built here first: no checkpoint moves, no Ray starts."""
    monkeypatch.setattr("maftp.training.launch._run", None)
    out = tmp_path / "run"
    with pytest.raises(DataError, match="another vocabulary"):
        launch(
            params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER, out=out,
            prepare=refuse,
        )  # fmt: skip
    assert not out.exists()


def test_what_has_a_checkpoint_is_not_built_beforehand(params, trained, monkeypatch, refuse):
    begun = []
    monkeypatch.setattr("maftp.training.launch.training_digest", lambda *_, **__: "abc")
    monkeypatch.setattr("maftp.training.launch._train", lambda job, *_: begun.append(job))
    launch(
        params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER, out=trained.path,
        prepare=refuse,
    )  # fmt: skip
    assert len(begun) == 1


def test_a_model_too_large_to_build_is_told(params, tmp_path):
    def die(params, **_):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Interrupted, match="builds the model was killed, perhaps for want of mem"):
        launch(
            params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER, out=tmp_path / "run",
            prepare=die,
        )  # fmt: skip


def test_the_driver_does_without_the_libraries_of_its_workers():
    """They take 100 MB beside every training."""
    code = "import maftp.training.launch, ray.train.torch, sys; print(*sys.modules)"
    names = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert {"torch", "maftp.training.launch"} <= set(names)
    assert not {"detectron2", "torchvision", "open_clip", "cv2"} & set(names)


def test_a_place_that_cannot_be_written_is_found_first(params, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a folder"):
        launch(
            params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER, out=tmp_path / "file",
        )  # fmt: skip


@pytest.mark.parametrize("attempt", [1, 2, 3])
@pytest.mark.parametrize("error", [TrainingError("step 7: nan"), Interrupted("memory")])
def test_only_what_may_pass_is_tried_again(params, tmp_path, attempt, error, refuse):
    """A second attempt of a workflow repeats a mistake's sentence at once; a person's does not."""

    words = LastWords(tmp_path / "run/checkpoints")
    words.make_room()
    words.say(error)
    again = attempt == 1 or isinstance(error, Interrupted)
    with pytest.raises(
        DataError if again else TrainingError, match="vocabulary" if again else "step 7"
    ):
        launch(
            params, variant="maftp", seed=0, clip=DRIVER, embeddings=DRIVER,
            out=tmp_path / "run", prepare=refuse, attempt=attempt,
        )  # fmt: skip


def test_damaged_inputs_are_named(params, tmp_path):
    clip = tmp_path / "clip.safetensors"
    clip.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="clip.safetensors: damaged or cut short"):
        launch(params, variant="maftp", seed=0, clip=clip, embeddings=DRIVER, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_remade_embeddings_are_the_same_input(tmp_path):
    """The bytes of files with several metadata entries differ each time; the run must not."""
    held = {"weight": torch.eye(3)}
    facts = {f"key{i}": "value" for i in range(8)}
    digests = set()
    for _ in range(5):
        path = tmp_path / "a.safetensors"
        save_file(held, path, metadata=facts)
        digests.add(tuple(_file_digests([path]).values()))
    assert len(digests) == 1


def changed(params, block, **values):
    dumped = params.model_dump(mode="python")
    for key, value in values.items():
        dumped[block][key] = dumped[block][key] | value if isinstance(value, dict) else value
    return parse_params(dumped, source="test")


def test_the_repository_s_parameters_pass(params):
    check_params(params)


def test_mixed_precision_needs_a_gpu(params):
    with pytest.raises(ParamsError, match="train.amp"):
        check_params(changed(params, "train", amp=True))


def test_gpus_must_be_there(params, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    two = changed(params, "execution", gpus_per_worker=1, workers=2)
    with pytest.raises(ParamsError, match="2 workers want 2 GPUs, found 1"):
        check_params(two)
    check_params(changed(changed(params, "train", amp=True), "execution", gpus_per_worker=1))
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    check_params(two)


def test_narrow_inputs(params):
    # Sides are padded to multiples of 32: 97 gives 4 columns at stride 32, enough for scale 4.
    check_params(changed(params, "input", train={"short_side": 97}))
    narrow = changed(params, "input", train={"short_side": 96})
    with pytest.raises(ParamsError, match="at least 128 pixels wide.*found 96"):
        check_params(narrow)
    check_params(changed(narrow, "train", rc_weight=0.0))
    check_params(changed(narrow, "train", rc_scales=(1, 2)))
    check_params(changed(narrow, "model", name="fcclip"))
    crops = changed(params, "input", train={"mapper": "panoptic", "crop_size": 64})
    with pytest.raises(ParamsError, match="found 64"):
        check_params(crops)


def test_nodes_must_be_there(params, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    two = changed(changed(params, "execution", workers=2), "resources", nodes=2)
    with pytest.raises(ParamsError, match="2 nodes wanted, this is one machine"):
        check_params(two)
    with pytest.raises(ParamsError, match="2 nodes wanted, job 7 has 1"):
        check_params(two, Allocation(job="7", nodes=("n1",)))
    check_params(two, Allocation(job="7", nodes=("n1", "n2")))
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    check_params(two)
