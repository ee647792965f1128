"""The EVA02 student against the public code, one image at a time."""

from __future__ import annotations

import pytest
import torch

from maftp.modeling.eva_tower import EvaTower
from tests.parity import cases
from tests.parity.weights import named_tensor


@pytest.fixture(scope="module")
def fixture():
    return cases.read("maskclippp_eva_small")


@pytest.fixture(scope="module")
def tower(fixture):
    tower = EvaTower(width=64, depth=5, heads=4, hidden=170, embed_dim=32, patch=14, side=4)
    cases.fill(tower, named_tensor, lambda name: f"visual_encoder.proxy.{name}")
    own = {f"proxy.{name}": str(list(t.shape)) for name, t in tower.state_dict().items()}
    names, shapes = fixture["state_names"].tolist(), fixture["state_shapes"].tolist()
    expected = {n: str(s) for n, s in zip(names, shapes, strict=True) if n != "mask_logit_scale"}
    assert {n: s.strip("[]()").replace(" ", "").strip(",") for n, s in own.items()} == {
        n: s.strip("[]()").replace(" ", "").strip(",") for n, s in expected.items()
    }
    return tower


SCALE = torch.linspace(-4, 1, 12).view(3, 4)


def embed(tower, fixture, indices, scale=SCALE, change=lambda weights: weights):
    masks = [torch.from_numpy(fixture[f"masks_{index}"]) for index in indices]
    most = max(map(len, masks))
    padded = [torch.nn.functional.pad(m, (0, 0, 0, 0, 0, most - len(m))) for m in masks]
    weights = torch.nn.functional.interpolate(
        torch.stack(padded), size=(6, 6), mode="bilinear", align_corners=False
    )
    images = torch.from_numpy(fixture["images"])[list(indices)]
    with torch.no_grad():
        found = tower(images, change(weights), scale)
    areas = weights.flatten(2).sum(2)
    return [(f[: len(m)], a[: len(m)]) for f, a, m in zip(found, areas, masks, strict=True)]


@pytest.mark.parametrize("index", [0, 1])
def test_each_image_alone(tower, fixture, index):
    ((found, areas),) = embed(tower, fixture, [index])
    assert cases.difference(found, fixture[f"single_{index}"]) < 1e-4
    assert areas.numpy() == pytest.approx(fixture[f"areas_{index}"], rel=1e-5)


def test_a_batch_gives_the_same_without_the_faults_of_the_public_one(tower, fixture):
    for index, (found, _) in enumerate(embed(tower, fixture, [0, 1])):
        assert cases.difference(found, fixture[f"single_{index}"]) < 1e-4
    # there the second image's mask tokens start from the first image's, and its code is shifted
    assert cases.difference(found, fixture["batch_1"]) > 1e-3


@pytest.mark.parametrize(
    ("scale", "change"),
    [
        (SCALE.flip(0), lambda weights: weights),
        (SCALE, lambda weights: (weights > 0.5).float()),
        (SCALE, lambda weights: torch.ones_like(weights)),
    ],
    ids=["blocks in another order", "binary masks", "no masks"],
)
def test_a_wrong_step_is_noticed(tower, fixture, scale, change):
    ((found, _),) = embed(tower, fixture, [0], scale, change)
    assert cases.difference(found, fixture["single_0"]) > 5e-4
