import json
from pathlib import Path

import pytest
import torch

from maftp.api import experiment_params
from maftp.errors import MaftpError
from maftp.modeling.build import build_model

KEYS = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "keys"

TRAIN = ["person, child", "car", "sky"]
TEST = ["wall", "dog,puppy", "sky, heaven"]


@pytest.fixture
def model(build):
    model = build("fcclip", teacher=False)
    model.set_training_vocabulary(TRAIN)
    model.set_test_vocabulary(TEST)
    return model


def test_clip_is_frozen_and_there_is_no_transfer(model, batch):
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "backbone",
        "sem_seg_head",
        "criterion",
        "void_embedding",
    }
    losses = model.train()(batch)
    assert all(name.startswith("loss_") for name in losses)
    sum(losses.values()).backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(model.trainable_names())
    assert model.parameter_groups()["backbone"] == []


def test_seen_by_equal_synonyms(model):
    # "sky" of "sky, heaven" is a training synonym
    assert model.seen().tolist() == [False, False, True]


def test_results(model, batch):
    with torch.no_grad():
        results = model.eval()(batch)
    assert [tuple(r["sem_seg"].shape) for r in results] == [(3, 128, 160), (3, 96, 128)]
    assert all(torch.isfinite(r["sem_seg"]).all() for r in results)


def test_weights_of_the_ensemble_matter(model, batch):
    with torch.no_grad():
        before = model.eval()(batch)[0]["sem_seg"]
        model.alpha = model.beta = 0.0
        head_alone = model(batch)[0]["sem_seg"]
    assert not torch.allclose(before, head_alone)


def test_empty_masks_are_left_to_the_head(model, batch):
    model.valid_masks_only = True
    with torch.no_grad():
        assert torch.isfinite(model.eval()(batch)[0]["sem_seg"]).all()


def test_training_vocabulary_is_needed(build, batch):
    model = build("fcclip", teacher=False)
    model.set_test_vocabulary(TEST)
    with pytest.raises(MaftpError, match="seen in training; call set_training_vocabulary"):
        model.eval()(batch)


@pytest.mark.skipif(not KEYS.is_dir(), reason="lists of released entries are not here")
def test_entries_of_the_released_checkpoint():
    params = experiment_params("fcclip_large_panoptic_released")
    with torch.device("meta"):
        model = build_model(params, num_training_classes=133, load_clip=None, teacher=False)
    released = json.loads((KEYS / "fcclip_large_panoptic.json").read_text())
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == released
    trainable = json.loads((KEYS / "trainable_fcclip_large_panoptic.json").read_text())
    assert sorted(model.trainable_names()) == sorted(trainable)
