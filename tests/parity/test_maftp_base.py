"""The base model against outputs of the public code; see README.md beside this file."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from maftp.api import experiment_params
from maftp.modeling.build import build_model

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("parity_weights", HERE / "weights.py")
weights = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(weights)


@pytest.fixture(scope="module")
def model():
    params = experiment_params("maftp_base")
    train = params.train.model_copy(update={"num_points": 512})
    params = params.model_copy(update={"train": train})
    model = build_model(params, num_training_classes=5, load_clip=None, teacher=True)
    state = model.state_dict()
    for name, tensor in state.items():
        tensor.copy_(weights.named_tensor(name, tensor))
    return model


def image(fixture, index):
    return torch.from_numpy(fixture[f"image_{index}"]).permute(2, 0, 1)


def test_semantic_scores(model):
    fixture = np.load(HERE / "base_semantic_eval.npz")
    model.set_test_vocabulary(fixture["classes"].tolist())
    with torch.no_grad():
        results = model.eval()([{"image": image(fixture, i)} for i in range(2)])
    for index, result in enumerate(results):
        expected = torch.from_numpy(fixture[f"sem_seg_{index}"])
        assert result["sem_seg"].shape == expected.shape
        worst = (result["sem_seg"] - expected).abs().max() / expected.abs().max()
        assert worst < 5e-4  # an independent implementation in float32 reached 3e-5


def ground_truth(labels):
    labels = torch.from_numpy(labels)
    instances = Instances(tuple(labels.shape))
    instances.gt_classes = labels.unique()
    instances.gt_masks = labels == instances.gt_classes[:, None, None]
    return instances


def test_losses_and_gradients(model, monkeypatch):
    fixture = np.load(HERE / "base_semantic_train.npz")
    model.set_training_vocabulary(fixture["train_classes"].tolist())
    batch = [
        {"image": image(fixture, i), "instances": ground_truth(fixture[f"labels_{i}"])}
        for i in range(2)
    ]
    monkeypatch.setattr(torch, "rand", weights.fixed_rand)
    losses = model.train()(batch)
    sum(losses.values()).backward()
    expected = json.loads(str(fixture["losses"]))
    assert len(expected) == 32
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=2e-4)

    norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
    expected = json.loads(str(fixture["grad_norms"]))
    assert set(norms) == set(expected)
    # the transfer's shift moves all classes alike: its gradient is zero but for rounding
    significant = {name: norm for name, norm in expected.items() if norm > 1e-6}
    assert len(significant) == 649
    assert {name: norms[name] for name in significant} == pytest.approx(significant, rel=1e-3)
