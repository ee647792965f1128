import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge

from maftp.data.resize import resize_image, resize_label, resized_size


@pytest.mark.parametrize(
    ("size", "resized"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 1000), (400, 1333))],
)
def test_published_sizes(size, resized):
    assert resized_size(*size, short_side=800, max_side=1333) == resized


@pytest.mark.parametrize("size", [(1, 1), (2, 1280), (1280, 2), (1, 5000), (3, 40000)])
def test_the_thinnest_strip_keeps_a_pixel(size):
    resized = resized_size(*size, short_side=128, max_side=213)
    assert min(resized) == 1 or size == (1, 1)
    image = resize_image(np.zeros((*size, 3), np.uint8), *resized)
    assert image.shape[:2] == tuple(resize_label(np.zeros(size, np.uint8), *resized).shape)


def test_sizes_and_pixels_are_detectron2s():
    rng = np.random.default_rng(0)
    for _ in range(60):
        size = rng.integers(20, 900, 2).tolist()
        short, longest = int(rng.integers(32, 900)), int(rng.integers(900, 1400))
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        theirs = ResizeShortestEdge(short, longest).get_transform(image).apply_image(image)
        ours = resize_image(image, *resized_size(*size, short_side=short, max_side=longest))
        assert np.array_equal(ours, theirs)


def test_labels_follow_torchs_nearest_rule_for_doubles():
    generator = np.random.default_rng(0)
    for _ in range(30):
        height, width, new_height, new_width = generator.integers(5, 900, 4).tolist()
        label = generator.integers(0, 256, (height, width), dtype=np.uint8)
        doubles = torch.from_numpy(label.astype(np.float64))[None, None]
        size = (new_height, new_width)
        expected = torch.nn.functional.interpolate(doubles, size=size, mode="nearest")[0, 0]
        assert torch.equal(resize_label(label, *size).double(), expected)


def test_labels_of_16_bits():
    assert resize_label(np.array([[256, 65535]], np.uint16), 1, 4).tolist() == [
        [256] * 2 + [65535] * 2
    ]


def test_an_image_of_the_right_size_is_not_resampled():
    image = np.zeros((4, 5, 3), np.uint8)
    assert resize_image(image, 4, 5) is image
