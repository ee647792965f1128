import pytest
import torch
from safetensors.torch import load_file

from maftp.errors import CheckpointError
from maftp.modeling.checkpoint import load_teacher, load_weights
from maftp.modeling.checkpoint_file import read_state
from maftp.modeling.clip_backbone import load_clip_weights
from maftp.training.checkpoint import save_weights


@pytest.fixture
def released(build, tmp_path):
    """A checkpoint in the released form: everything, wrapped in `model`, beside other state."""
    model = build(whole_teacher=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    state = model.state_dict()
    path = tmp_path / "released.pth"
    torch.save({"model": state, "iteration": 60000, "optimizer": {"lr": 1e-4}}, path)
    return path, state


def edited(path, **changes):
    state = torch.load(path)["model"]
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            state.pop(name)
        else:
            state[name] = value
    torch.save(state, path)
    return path


def test_released_form_without_teacher(released, build):
    path, state = released
    model = build(teacher=False)
    assert load_weights(model, path) == {}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_released_form_with_trunk_of_the_teacher(released, build):
    path, state = released
    model = build()
    load_weights(model, path)
    name = "backbone_t.clip_model.visual.trunk.stem.0.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    assert not any("backbone_t.clip_model.transformer" in name for name in model.state_dict())


def test_teacher_alone(released, build):
    path, state = released
    teacher = build().backbone_t
    assert load_teacher(teacher, path)
    name = "clip_model.visual.trunk.stem.0.weight"
    assert torch.equal(teacher.state_dict()[name], state[f"backbone_t.{name}"])


def test_bare_form_and_derived_entries(released, build):
    path, _ = released
    edited(
        path,
        criterion__empty_weight=torch.ones(172),
        backbone__clip_model__attn_mask=torch.zeros(77, 77),
    )
    model = build(teacher=False)
    load_weights(model, path)
    assert len(model.criterion.empty_weight) == 4


def test_every_misfit_is_named(released, build):
    path, _ = released
    edited(
        path,
        void_embedding__weight=None,
        cdt__cross_atten__norm__weight=torch.zeros(7),
        sem_seg_head__surplus=torch.zeros(1),
    )
    with pytest.raises(CheckpointError) as error:
        load_weights(build(teacher=False), path)
    message = str(error.value)
    assert "released.pth" in message
    assert "1 missing: void_embedding.weight" in message
    assert "1 unexpected: sem_seg_head.surplus" in message
    assert "1 of another shape: cdt.cross_atten.norm.weight (7,) instead of (32,)" in message
    assert "\n" not in message


def test_checkpoint_of_another_model(released, build):
    path, _ = released
    with pytest.raises(
        CheckpointError, match=r"8 unexpected: cdt\..* and 5 more.*looks like maftp"
    ):
        load_weights(build("fcclip", teacher=False), path)


def test_own_weights_round_trip(build, tmp_path):
    model = build()
    model.set_training_vocabulary(["sky", "car", "person, child"])
    with torch.no_grad():
        model.void_embedding.weight.fill_(3.0)
    path = tmp_path / "run" / "weights.safetensors"
    save_weights(path, model, {})
    assert not any(name.startswith("backbone_t.") for name in load_file(path))
    other = build()
    noted = load_weights(other, path)
    assert noted["training_vocabulary"] == ["sky", "car", "person, child"]
    assert torch.equal(other.void_embedding.weight, model.void_embedding.weight)
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_own_weights_of_another_formula(build, tiny_params, tmp_path):
    save_weights(tmp_path / "weights.safetensors", build(), {})
    cdt = tiny_params.model.cdt.model_copy(update={"form": "panoptic"})
    with pytest.raises(CheckpointError, match="cdt_form 'semantic', the parameters say 'panoptic'"):
        load_weights(build(model={"cdt": cdt}), tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "name", ["cut.pth", "cut.safetensors", "text.pth", "empty.pth", "absent.pth"]
)
def test_damaged_files(name, released, build, tmp_path):
    path = tmp_path / name
    if name == "cut.pth":
        path.write_bytes(released[0].read_bytes()[:20000])
    elif name == "cut.safetensors":
        save_weights(path, build(), {})
        path.write_bytes(path.read_bytes()[:20000])
    elif name == "text.pth":
        path.write_text("<html>not found</html>")
    elif name == "empty.pth":
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=name):
        load_weights(build(teacher=False), path)


def test_no_state_dict(tmp_path):
    torch.save({"model": [1, 2]}, tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="list.pth: holds no state dict"):
        read_state(tmp_path / "list.pth")


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil.pth"):
        read_state(tmp_path / "evil.pth")


def test_old_torch_format(released, build, tmp_path):
    state = released[1]
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    load_weights(build(teacher=False), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(released, build, tmp_path, value):
    path, state = released
    name = "sem_seg_head.predictor.query_feat.weight"
    state[name][1, 2] = value
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=rf"released.pth: 1 entries are not finite: {name}"):
        load_weights(build(teacher=False), path)
    model = build()
    with torch.no_grad():
        model.void_embedding.weight[0, 0] = value
    save_weights(tmp_path / "weights.safetensors", model, {})
    with pytest.raises(CheckpointError, match=r"not finite: void_embedding\.weight"):
        load_weights(build(), tmp_path / "weights.safetensors")


def test_a_teacher_that_is_not_finite_is_named(released, build):
    path, state = released
    state["backbone_t.clip_model.visual.trunk.stem.0.weight"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="not finite: clip_model.visual.trunk.stem.0.weight"):
        load_teacher(build().backbone_t, path)


def test_clip_that_is_not_finite_is_named(build, tmp_path):
    clip = build().backbone.clip_model
    state = clip.state_dict()
    state["token_embedding.weight"][5, 1] = float("nan")
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=r"clip\.pt: 1 entries are not finite: token_emb"):
        load_clip_weights(clip, tmp_path / "clip.pt")
