import numpy as np
import pytest
import torch
from PIL import Image

from maftp.config import load_params
from maftp.data.semantic_crops import SemanticCrop, SemanticJitter, change_colours


@pytest.fixture
def record(tmp_path):
    """A 40 x 60 image whose red is its column; classes 3 (left half) and 7."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 0] = np.arange(60)
    label = np.full((40, 60), 7, np.uint8)
    label[:, :30] = 3
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "label.png"),
        "image_id": "image",
    }


def test_shorter_sides_of_the_public_configuration():
    mapper = SemanticCrop(crop_size=1024, scale_range=(0.3, 1.9), max_side=4096, flip=0.5)
    assert mapper.short_sides == [
        307, 409, 512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536, 1638, 1740, 1843,
        1945,
    ]  # fmt: skip


def test_crops_are_no_larger_than_asked_and_small_images_stay_small(record):
    mapper = SemanticCrop(crop_size=50, scale_range=(0.4, 1.4), max_side=400, flip=0.5)
    sizes = set()
    for seed in range(40):
        item = mapper(record, np.random.default_rng(seed))
        height, width = item["image"].shape[1:]
        assert height <= 50 and width <= 50
        assert item["instances"].gt_masks.tensor.shape[1:] == (height, width)
        assert set(item["instances"].gt_classes.tolist()) <= {3, 7}
        assert (item["height"], item["width"]) == (40, 60)
        sizes.add((height, width))
    assert (20, 30) in sizes and (50, 50) in sizes


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_labels_move_with_the_image(record, flip):
    """Without colour changes the red of a pixel tells its class; the crop is as high as it gets."""
    jitter = SemanticJitter(crop_size=64, scale_range=(1.0, 1.0), flip=flip)
    item = jitter(record, np.random.default_rng(0))
    assert item["image"].shape == (3, 64, 64)
    instances = item["instances"]
    assert instances.gt_classes.tolist() == [3, 7]
    left, right = instances.gt_masks.tensor
    red = item["image"][0].float()
    assert red[left].max() <= 31 and red[right].min() >= 28
    assert bool(left[0, 0]) == (flip == 0.0)
    beyond = ~(left | right)  # 43 rows of 64 are image
    assert beyond[43:].all() and not beyond[:43].any()
    assert (item["image"][:, beyond] == 128).all()


def test_colours_change_within_their_range():
    image = np.full((2, 2, 3), (200, 120, 40), np.uint8)
    found = np.stack([change_colours(image, np.random.default_rng(seed)) for seed in range(200)])
    assert found.dtype == np.uint8
    same = (found == image).all(axis=(1, 2, 3)).mean()
    assert 0.02 < same < 0.15  # 1/16 where no two changes cancel out
    assert found[..., 0].astype(int).mean() == pytest.approx(185, abs=20)


def test_the_same_generator_gives_the_same_sample(record):
    mapper = SemanticCrop.from_params(load_params("params.yaml"))
    one, other = (mapper(record, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one["image"], other["image"])
