"""Zero-shot naming of windows and regions, and what the shipped CLIP reaches."""

from importlib.resources import files

import numpy as np
import open_clip
import pytest
import torch

from maftp.miniworld.clip import config
from maftp.miniworld.label_spaces import coco
from maftp.miniworld.scenes import Instance, Scene
from maftp.miniworld.words import Thing
from tests.miniworld.zero_shot import Namer, region_embeddings, regions, report


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return open_clip.CLIP(**config()).eval()


def test_a_mask_of_everything_pools_like_the_model_itself(fresh):
    # The model averages its map over all cells before the head: a full mask does the same.
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    pooled = region_embeddings(fresh, image, torch.ones(1, 64, 96))
    from maftp.miniworld.clip import normalise

    with torch.no_grad():
        whole = fresh.encode_image(normalise([image]))
    torch.testing.assert_close(pooled, whole, atol=1e-4, rtol=1e-4)


def test_an_empty_mask_gives_no_nan(fresh):
    image = np.zeros((64, 64, 3), np.uint8)
    assert torch.isfinite(region_embeddings(fresh, image, torch.zeros(1, 64, 64))).all()


def test_a_name_is_its_own_nearest(fresh):
    namer = Namer(fresh, coco())
    second = namer._texts[namer._owners == 3]  # noqa: SLF001
    assert namer(second).tolist() == [3] * len(second)


def test_regions_are_what_has_a_class():
    mask = np.zeros((32, 32), bool)
    mask[:8] = True
    scene = Scene(
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        ("blue sky",),
        (Instance(Thing("duck", "red"), mask), Instance(Thing("ball", "red"), ~mask)),
    )
    masks, classes = regions(scene, coco())
    # The duck has no class in training, and nothing of the sky is left to see.
    assert classes == [0] and masks.shape == (1, 32, 32)
    np.testing.assert_array_equal(masks[0].numpy() > 0, ~mask)


@pytest.mark.slow
def test_shipped_weights_name_what_they_see():
    path = files("maftp.miniworld").joinpath("clip_miniature.safetensors")
    found = report(path, scenes=60, seed=1234, sizes=((128, 160), (160, 128)))
    assert found["windows"] > 0.6
    assert found["thing_regions"] > 0.4
    assert found["stuff_regions"] > 0.45
