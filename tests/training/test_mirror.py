"""Copies of checkpoints in another place: a folder, a bucket of a real S3 server on loopback."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from maftp.errors import ParamsError, TrainingError
from maftp.training.checkpoint import newest_checkpoint, step_folder
from maftp.training.distributed import Worker
from maftp.training.mirror import Mirror
from maftp.training.worker import train


def run(tiny, params, folder, *, stop_after=None):
    asked = iter(range(100))
    train(
        tiny.TinyModel(0),
        tiny.tiny_batches(),
        params=params,
        seed=0,
        folder=folder,
        report=lambda row, path: None,
        facts={"run": "abc"},
        worker=Worker(),
        asked_to_stop=lambda: next(asked) == stop_after,
    )


@pytest.fixture
def place(tmp_path):
    return f"file://{tmp_path}/bucket"


def mirrored(tiny, place):
    params = tiny.tiny_params()
    resources = params.resources.model_copy(update={"checkpoint_mirror": place})
    return params.model_copy(update={"resources": resources})


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_lost_disk_costs_nothing(tiny, kind, tmp_path, request):
    if kind == "s3":
        s3 = request.getfixturevalue("s3")
        host = s3.address.removeprefix("http://")
        place = f"s3://{s3.bucket('lab')}/maftp?scheme=http&endpoint_override={host}"
    else:
        place = request.getfixturevalue("place")
    params = mirrored(tiny, place)
    run(tiny, tiny.tiny_params(), tmp_path / "a")
    run(tiny, params, tmp_path / "b", stop_after=9)
    shutil.rmtree(tmp_path / "b")
    Mirror(place, run="abc").pull(tmp_path / "b")
    assert newest_checkpoint(tmp_path / "b") == step_folder(tmp_path / "b", 9)
    run(tiny, params, tmp_path / "b")
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_newest_are_kept_and_half_copies_ignored(tiny, place, tmp_path):
    run(tiny, mirrored(tiny, place), tmp_path / "b")  # checkpoints at 4, 8, 12; two are kept
    bucket = tmp_path / "bucket/abc"
    assert {path.name for path in bucket.iterdir()} == {"step-00000008", "step-00000012"}
    (bucket / "step-00000012/sha256.json").unlink()
    Mirror(place, run="abc").pull(tmp_path / "c")
    assert newest_checkpoint(tmp_path / "c").name == "step-00000008"


def test_nothing_is_fetched_when_nothing_is_newer(tiny, place, tmp_path):
    run(tiny, mirrored(tiny, place), tmp_path / "b")
    shutil.copytree(step_folder(tmp_path / "b", 12), step_folder(tmp_path / "c", 12))
    (step_folder(tmp_path / "c", 12) / "mine").touch()
    Mirror(place, run="abc").pull(tmp_path / "c")
    assert (step_folder(tmp_path / "c", 12) / "mine").exists()
    Mirror(place, run="other").pull(tmp_path / "d")
    assert newest_checkpoint(tmp_path / "d") is None


@pytest.mark.parametrize("where", ["here", "there"])
def test_damage_is_gone_back_over(tiny, place, tmp_path, where, caplog):
    """What is damaged here is fetched; of damaged copies the older one is."""
    run(tiny, mirrored(tiny, place), tmp_path / "b")
    if where == "there":
        (tmp_path / "bucket/abc/step-00000012/optimizer.pt").write_bytes(b"cut")
        shutil.rmtree(tmp_path / "b")
    else:
        (tmp_path / "b/step-00000012/optimizer.pt").write_bytes(b"cut")
    Mirror(place, run="abc").pull(tmp_path / "b")
    expected = {"there": "step-00000008", "here": "step-00000012"}[where]
    assert newest_checkpoint(tmp_path / "b").name == expected
    assert ("damaged copy" in caplog.text) == (where == "there")


def test_a_place_that_cannot_be_written_stops_nothing(tiny, tmp_path, caplog):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket/abc").write_text("a file")
    run(tiny, mirrored(tiny, f"file://{tmp_path}/bucket"), tmp_path / "b")
    assert (tmp_path / "b/weights.safetensors").exists()
    assert "was not copied" in caplog.text
    with pytest.raises(TrainingError, match="cannot be read"):
        Mirror(f"file://{tmp_path}/bucket", run="abc").pull(tmp_path / "c")


def test_no_place():
    with pytest.raises(ParamsError, match="resources.checkpoint_mirror: 'nowhere:x'"):
        Mirror("nowhere:x", run="abc")
