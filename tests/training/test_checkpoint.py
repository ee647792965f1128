"""Checkpoints: whole or absent, strict, and free of what is frozen."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from maftp.errors import CheckpointError
from maftp.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    read_numbers,
    save_checkpoint,
    save_weights,
    step_folder,
    weights_facts,
)


def state_of(model):
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    return TrainingState(model=model, parts={"optimizer": optimizer})


def test_round_trip(tiny, tmp_path):
    first, second = state_of(tiny.TinyModel(0)), state_of(tiny.TinyModel(1))
    sum(first.model(next(tiny.tiny_batches()(0))).values()).backward()
    first.parts["optimizer"].step()
    save_checkpoint(tmp_path / "c", first, {"step": 3, "history": [{"loss": 0.1}]})
    assert load_checkpoint(tmp_path / "c", second) == {"step": 3, "history": [{"loss": 0.1}]}
    for name, parameter in first.model.named_parameters():
        same = torch.equal(parameter, second.model.get_parameter(name))
        assert same == parameter.requires_grad, name
    before = first.parts["optimizer"].state_dict()["state"]
    after = second.parts["optimizer"].state_dict()["state"]
    assert all(torch.equal(before[i]["exp_avg"], after[i]["exp_avg"]) for i in before)


def test_holds_trained_tensors_and_buffers_only(tiny, tmp_path):
    save_checkpoint(tmp_path / "c", state_of(tiny.TinyModel()), {})
    names = set(load_file(tmp_path / "c" / "model.safetensors"))
    assert "empty_weight" in names and "backbone.0.weight" in names
    assert not [name for name in names if name.startswith(("backbone_t.", "frozen."))]


def test_a_failed_write_leaves_nothing(tiny, tmp_path):
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "c", state_of(tiny.TinyModel()), {"step": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "state.json"])
def test_damage_is_named(tiny, tmp_path, file):
    save_checkpoint(tmp_path / "c", state_of(tiny.TinyModel()), {"step": 3})
    data = (tmp_path / "c" / file).read_bytes()
    (tmp_path / "c" / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "c", state_of(tiny.TinyModel()))
    (tmp_path / "c" / file).unlink()
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "c", state_of(tiny.TinyModel()))


def test_another_model_is_refused(tiny, tmp_path):
    save_checkpoint(tmp_path / "c", state_of(tiny.TinyModel()), {})
    other = tiny.TinyModel()
    other.head = torch.nn.Linear(8, 2)
    other.extra = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="missing: extra.bias.*other shape: head.bias"):
        load_checkpoint(tmp_path / "c", state_of(other))


def test_newest_and_prune(tiny, tmp_path):
    assert newest_checkpoint(tmp_path / "absent") is None
    for step in (100, 900, 1000):
        save_checkpoint(step_folder(tmp_path, step), state_of(tiny.TinyModel()), {"step": step})
    (tmp_path / ".step-00002000.x").mkdir()  # what a killed writer leaves
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 1000)
    prune_checkpoints(tmp_path, keep=2)
    assert not step_folder(tmp_path, 100).exists()
    assert step_folder(tmp_path, 900).exists()


@pytest.mark.parametrize("keep", [1, 2])
def test_older_ones_stay_until_the_newest_is_sound(tiny, tmp_path, keep):
    for step in (1, 2, 3):
        save_checkpoint(step_folder(tmp_path, step), state_of(tiny.TinyModel()), {"step": step})
    (step_folder(tmp_path, 3) / "optimizer.pt").write_bytes(b"cut")
    prune_checkpoints(tmp_path, keep=keep)
    assert step_folder(tmp_path, 1).exists() and step_folder(tmp_path, 2).exists()
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 2)


def test_unreadable_numbers(tmp_path):
    with pytest.raises(CheckpointError, match="damaged"):
        read_numbers(tmp_path)


def test_weights_hold_all_but_the_teacher(tiny, tmp_path):
    model = tiny.TinyModel()
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, {"run": "abc", "seed": 0})
    tensors = load_file(path)
    assert set(tensors) == {n for n in model.state_dict() if not n.startswith("backbone_t.")}
    assert torch.equal(tensors["frozen.weight"], model.frozen.weight)
    facts = weights_facts(path)
    assert facts["run"] == "abc" and facts["model"] == "tiny"
    assert facts["training_vocabulary"] == ["cat", "dog,hound"]


def test_facts_of_foreign_files(tmp_path):
    path = tmp_path / "weights.safetensors"
    assert weights_facts(path) == {}
    path.write_bytes(b"nonsense")
    assert weights_facts(path) == {}
