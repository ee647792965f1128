import json
from pathlib import Path

import pytest
import torch

from maftp.api import experiment_params
from maftp.modeling.build import build_model
from maftp.modeling.checkpoint import load_weights
from maftp.modeling.released_weights import convert_released

KEYS = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "keys"


@pytest.fixture
def model(build):
    model = build("ovrcoat", teacher=False)
    model.set_training_vocabulary(["person, child", "car", "sky"])
    model.set_test_vocabulary(["wall", "dog,puppy", "sky, heaven"])
    return model


@pytest.mark.parametrize(
    ("over", "scale"), [({}, True), ({"train_logit_scale": False}, False), ({"weight": 0.0}, False)]
)
def test_all_that_is_trained_gets_a_gradient(build, batch, over, scale):
    ovr = build("ovrcoat", teacher=False).ovr
    ovr = {**vars(ovr), **over}
    from maftp.blocks import Ovr

    model = build("ovrcoat", teacher=False, train={"ovr": Ovr(**ovr)})
    model.set_training_vocabulary(["person, child", "car", "sky"])
    losses = model.train()(batch)
    assert ("loss_oov_ce" in losses) == (ovr["weight"] > 0)
    sum(losses.values()).backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(model.trainable_names())
    assert ("backbone.clip_model.logit_scale" in with_gradient) == scale


def test_trust_in_clip_lowers_void_for_fcclip_and_maftp_too(build, batch):
    for variant in ("fcclip", "maftp", "ovrcoat"):
        model = build(variant, teacher=False, train={"rc_weight": 0.0})
        model.set_training_vocabulary(["person", "car", "sky"])
        model.set_test_vocabulary(["wall", "dog", "sky"])
        images = model.preprocess(batch).tensor
        with torch.no_grad():
            text, rows = model.eval().classifier(model.test_names)
            before = model.scores(images, text, rows, model.seen())[0]
            model.trust_weight = 0.5
            after = model.scores(images, text, rows, model.seen())[0]
        assert (after[..., -1] < before[..., -1]).all()
        assert (after[..., -1] >= before[..., -1] - 0.7).all()  # half at the most


@pytest.mark.skipif(not KEYS.is_dir(), reason="lists of released entries are not here")
def test_entries_of_the_released_checkpoint():
    with torch.device("meta"):
        params = experiment_params("ovrcoat_large_panoptic")
        model = build_model(params, num_training_classes=133, load_clip=None, teacher=False)
    released = json.loads((KEYS / "ovrcoat_large_panoptic.json").read_text())
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    copies = {
        name.replace("backbone.", "frozen_backbone.", 1): shape
        for name, shape in own.items()
        if name.startswith("backbone.")
    }
    assert own | copies == released
    trainable = json.loads((KEYS / "trainable_ovrcoat_large_panoptic.json").read_text())
    assert sorted(model.trainable_names()) == sorted(trainable)


def test_base_trains_its_projection_as_the_public_rule_does():
    params = experiment_params("ovrcoat_large_panoptic")
    clip = params.clip.model_copy(update={"model": "convnext_base_w_320"})
    with torch.device("meta"):
        params = params.model_copy(update={"clip": clip})
        model = build_model(params, num_training_classes=133, load_clip=None, teacher=False)
    assert len(model.trainable_names()) == 644
    assert "backbone.clip_model.visual.head.proj.weight" in model.trainable_names()


@pytest.mark.parametrize("frozen_copy", [True, False])
def test_released_form(model, tiny_params, tmp_path, frozen_copy, caplog):
    state = model.state_dict()
    if frozen_copy:
        copies = {n: t + 1 for n, t in state.items() if n.startswith("backbone.")}
        state = {f"frozen_{name}": tensor for name, tensor in copies.items()} | state
    state["prompt_learner.context"] = torch.zeros(2)  # of a part that the authors removed
    torch.save({"model": state}, tmp_path / "ovrcoat.pth")
    params = tiny_params.for_variant("ovrcoat")
    out = tmp_path / "out.safetensors"
    convert_released(params, tmp_path / "ovrcoat.pth", out, name="ovrcoat", num_training_classes=3)
    assert "prompt_learner.context" in caplog.text
    load_weights(model, out)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
