"""Whatever a disk does to the newest checkpoint: the run ends with the bytes it would have had."""

from __future__ import annotations

import csv
import random
import shutil

import pytest

from maftp.training.checkpoint import step_folder
from maftp.training.distributed import Worker
from maftp.training.meter import TIMINGS
from maftp.training.run_folder import RunFolder
from maftp.training.worker import train

FILES = ("model.safetensors", "optimizer.pt", "state.json", "sha256.json", "best.safetensors")

VALIDATION = {"benchmark": "A-150", "period": 4, "images": None}


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero_a_page(data: bytes, rng: random.Random) -> bytes:
    """As a file system does that had allocated a page and lost power."""
    start = rng.randrange(len(data)) // 64 * 64
    zeroed = data[:start] + bytes(64) + data[start + 64 :]
    return zeroed if zeroed != data else flip_a_bit(data, rng)


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


DAMAGES = {"cut": cut, "bit": flip_a_bit, "page": zero_a_page, "empty": empty}
KINDS = [*DAMAGES, "deleted", "older", "swapped"]


@pytest.fixture(scope="module")
def begun(tiny, tmp_path_factory):
    """A run folder with checkpoints of steps 4 and 8, and the bytes it ends with undisturbed."""
    path = tmp_path_factory.mktemp("begun")
    undisturbed = go_on(tiny, RunFolder(path / "undisturbed", digest="abc"))
    go_on(tiny, RunFolder(path / "run", digest="abc"), until=8)
    return path / "run", undisturbed


def go_on(tiny, folder: RunFolder, *, until: int | None = None) -> dict[str, object]:
    """Train from what is there; return weights and history when it came to the end."""
    folder.begin()
    asked = iter(range(1000))
    ended = train(
        tiny.TinyModel(0),
        tiny.tiny_batches(),
        params=tiny.tiny_params(validation=VALIDATION),
        seed=0,
        folder=folder.checkpoints,
        report=lambda row, path: None,
        facts={"run": folder.digest},
        worker=Worker(),
        asked_to_stop=lambda: next(asked) == until,
        validate=score,
    )
    if not ended:
        return {}
    folder.publish({})
    with open(folder.history, newline="") as file:
        rows = [
            {name: value for name, value in row.items() if name not in TIMINGS}
            for row in csv.DictReader(file)
        ]
    files = ("weights.safetensors", "best.safetensors")
    return {"rows": rows} | {name: (folder.path / name).read_bytes() for name in files}


def score(step: int) -> float:
    """Best after step 4: its weights must come through whatever happens later."""
    return {4: 50.0, 8: 30.0, 12: 40.0}.get(step, 0.0)


def damage(checkpoint, name: str, kind: str, seed: int) -> None:
    file, rng = checkpoint / name, random.Random(seed)
    if kind == "deleted":
        file.unlink()
    elif kind == "older":
        file.unlink()
        shutil.copy(checkpoint.with_name("step-00000004") / name, file)
    elif kind == "swapped":
        other = checkpoint / FILES[(FILES.index(name) + 1) % 3]
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
    else:
        data = DAMAGES[kind](file.read_bytes(), rng)
        file.unlink()  # a second name elsewhere keeps what it has
        file.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_checkpoint_costs_steps_alone(tiny, begun, tmp_path, caplog, name, kind):
    path, undisturbed = begun
    shutil.copytree(path, tmp_path / "run")
    newest = step_folder(tmp_path / "run/checkpoints", 8)
    before = (newest / name).read_bytes()
    damage(newest, name, kind, seed=FILES.index(name))
    same = (newest / name).exists() and (newest / name).read_bytes() == before
    assert same == (kind == "older" and name == "best.safetensors")  # the best was step 4's
    with caplog.at_level("INFO"):
        found = go_on(tiny, RunFolder(tmp_path / "run", digest="abc"))
    assert found == undisturbed
    if not same:
        assert f"{newest}: damaged checkpoint (" in caplog.text
        assert "going back to step 4" in caplog.text
        assert "going on from step 4" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_damage_to_every_checkpoint_costs_the_run_but_no_result(
    tiny, begun, tmp_path, caplog, seed
):
    path, undisturbed = begun
    shutil.copytree(path, tmp_path / "run")
    for number in (4, 8):
        damage(step_folder(tmp_path / "run/checkpoints", number), FILES[seed], "cut", seed)
    assert go_on(tiny, RunFolder(tmp_path / "run", digest="abc")) == undisturbed
    assert "no checkpoint is sound" in caplog.text
    assert (tmp_path / "run/checkpoints-damaged/step-00000008").exists()


def test_damaged_weights_of_an_ended_training_are_made_again(tiny, begun, tmp_path):
    """Between its end and the move into place: the last checkpoint makes them."""
    path, undisturbed = begun
    folder = RunFolder(tmp_path / "run", digest="abc")
    shutil.copytree(path, folder.path)
    folder.begin()
    train(
        tiny.TinyModel(0), tiny.tiny_batches(), seed=0, folder=folder.checkpoints,
        params=tiny.tiny_params(validation=VALIDATION), report=lambda row, path: None,
        facts={"run": "abc"}, worker=Worker(), validate=score,
    )  # fmt: skip
    for name in ("weights.safetensors", "best.safetensors"):
        file = folder.checkpoints / name
        data = flip_a_bit(file.read_bytes(), random.Random(1))
        file.unlink()
        file.write_bytes(data)
    assert go_on(tiny, RunFolder(folder.path, digest="abc")) == undisturbed
