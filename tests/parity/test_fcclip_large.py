"""The large frozen baseline, panoptic and instances too, against the public code's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maftp.api import experiment_params
from maftp.config import parse_params
from maftp.modeling.build import build_model
from tests.parity.weights import fixture_tensor

pytestmark = pytest.mark.slow
TOLERANCE = 5e-4  # of the largest value; an independent implementation in float32 reached 2e-5


@pytest.fixture(scope="module")
def fixture():
    return np.load(Path(__file__).with_name("fcclip_large_eval.npz"))


@pytest.fixture(scope="module")
def model(fixture):
    values = experiment_params("fcclip_large").model_dump(mode="json")
    values["model"]["num_queries"] = int(fixture["queries"])
    values["evaluate"] |= {
        "object_threshold": float(fixture["object_threshold"]),
        "overlap_threshold": float(fixture["overlap_threshold"]),
        "post_process_first": bool(fixture["post_process_first"]),
    }
    params = parse_params(values, source="fixture")
    assert params.clip.model == str(fixture["clip_model"])
    classes = fixture["train_classes"].tolist()
    model = build_model(params, num_training_classes=len(classes), load_clip=None, teacher=False)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(fixture_tensor(name, tensor))
    model.set_training_vocabulary(classes)
    model.set_test_vocabulary(fixture["classes"].tolist(), things=fixture["things"].tolist())
    model.instance_on = True
    assert (model.alpha, model.beta) == (fixture["alpha"], fixture["beta"])
    return model.eval()


@pytest.fixture(scope="module")
def results(fixture, model):
    images = [torch.from_numpy(fixture[f"image_{i}"]).permute(2, 0, 1) for i in range(2)]
    with torch.no_grad():
        return model([{"image": image} for image in images])


def assert_close(found, expected) -> None:
    expected = torch.from_numpy(expected)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_text_classifier_and_seen_classes(fixture, model):
    embeddings = model.text_embeddings(tuple(fixture["classes"].tolist()))
    assert_close(embeddings.weight, fixture["text_classifier"])
    assert model.seen().tolist() == fixture["seen"].astype(bool).tolist()


@pytest.mark.parametrize("index", [0, 1])
def test_semantic_scores(fixture, results, index):
    assert_close(results[index]["sem_seg"], fixture[f"sem_seg_{index}"])


@pytest.mark.parametrize("index", [0, 1])
def test_panoptic_segments(fixture, results, index):
    ids, segments = results[index]["panoptic_seg"]
    rows = [[s["id"], s["category_id"], int(s["isthing"])] for s in segments]
    assert rows == fixture[f"segments_{index}"].tolist()
    assert (ids.numpy() == fixture[f"panoptic_{index}"]).mean() >= 0.999


@pytest.mark.parametrize("index", [0, 1])
def test_instances(fixture, results, index):
    found = results[index]["instances"]
    expected = fixture[f"instances_{index}"]
    order = found.scores.argsort(descending=True)
    assert found.pred_classes[order].tolist() == expected[:, 0].tolist()
    assert found.scores[order].numpy() == pytest.approx(expected[:, 1], rel=TOLERANCE)
    areas = found.pred_masks[order].flatten(1).sum(1).numpy()
    assert areas == pytest.approx(expected[:, 2], rel=1e-3)
