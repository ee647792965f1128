import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from maftp.errors import CheckpointError
from maftp.files import sha256
from maftp.modeling.checkpoint import load_weights
from maftp.modeling.clip_backbone import create_clip, load_clip_weights
from maftp.modeling.released_weights import convert_released


@pytest.fixture
def released(build, tmp_path):
    """A checkpoint in the released form: everything, wrapped in `model`, beside other state."""
    state = build(whole_teacher=True).state_dict()
    path = tmp_path / "released.pth"
    torch.save({"model": state, "iteration": 60000, "optimizer": {"lr": 1e-4}}, path)
    return path, state


def convert(params, path, tmp_path, **changes):
    options = {"name": "maftp_b", "num_training_classes": 3} | changes
    out = tmp_path / "out" / "weights.safetensors"
    convert_released(params.for_variant("maftp"), path, out, **options)
    return out


@pytest.mark.parametrize("wrapped", [True, False])
def test_what_evaluation_needs_is_kept(wrapped, released, build, tiny_params, tmp_path):
    path, state = released
    if not wrapped:
        torch.save(state, path)
    out = convert(tiny_params, path, tmp_path)
    model = build(teacher=False)
    load_weights(model, out)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(name.startswith("backbone_t.") for name in load_file(out))


def test_the_file_says_what_it_is(released, tiny_params, tmp_path):
    out = convert(tiny_params, released[0], tmp_path)
    with safe_open(out, framework="pt") as file:
        noted = json.loads(file.metadata()["maftp"])
    assert noted["released"] == "maftp_b" and noted["format"] == 1
    assert noted["source_sha256"] == sha256(released[0])
    assert noted["model"] == "maftp" and noted["cdt_form"] == "semantic"


@pytest.mark.parametrize(
    "name", ["backbone_t.clip_model.text_projection", "void_embedding.weight", "surplus"]
)
def test_every_entry_counts_the_teachers_too(name, released, tiny_params, tmp_path):
    path, state = released
    if name == "surplus":
        state[name] = torch.zeros(1)
    else:
        state[name] = torch.zeros(3, 3, 3)
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=rf"released\.pth: .*1 (unexp|of another).*{name}"):
        convert(tiny_params, path, tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_text_tower_can_be_taken_from_it(released, tiny_params, tmp_path):
    """So names are embedded by the very tower that the weights belong to."""
    path, state = released
    out = convert(tiny_params, path, tmp_path)
    clip = create_clip(tiny_params.clip)
    load_clip_weights(clip, out)
    for name, tensor in clip.state_dict().items():
        assert torch.equal(tensor, state[f"backbone.clip_model.{name}"])


def test_semantic_and_panoptic_weights_are_told_apart(released, tiny_params, tmp_path):
    with pytest.raises(CheckpointError, match="trained with 3 classes, .* has 133"):
        convert(tiny_params, released[0], tmp_path, num_training_classes=133)


def test_a_pickle_that_runs_code_is_refused(tiny_params, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"builtins\.print, which could run code"):
        convert(tiny_params, path, tmp_path)
