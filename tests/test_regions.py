import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from maftp import regions
from maftp.regions import NOTHING, class_regions, enlarge, segment_regions

NAMES = ["sky", "building, edifice", "red car"]


@pytest.mark.parametrize("size", [(37, 50), (5, 7), (9, 8), (100, 33)])
def test_strips_equal_one_interpolation(size, monkeypatch):
    scores = torch.rand(4, 9, 8, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    monkeypatch.setattr(regions, "_STRIP_BYTES", 3 * 4 * 4 * size[1])  # three rows at a time
    labels, shares = enlarge(scores, size)
    best, expected = whole.max(0)
    assert np.array_equal(labels, expected.numpy())
    assert np.allclose(shares, (best / whole.sum(0)).numpy(), atol=1e-6)


def test_shares_of_given_classes():
    scores = torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]])  # two classes, 1 x 2 pixels
    labels, shares = enlarge(scores, (1, 2), np.array([[1, NOTHING]]))
    assert labels.tolist() == [[1, NOTHING]]
    assert shares[0, 0] == pytest.approx(0.25)  # 1 of 3 + 1


def test_a_region_per_class_with_area_box_and_mask():
    labels = np.zeros((4, 6), np.int32)
    labels[1:3, 2:5] = 2
    shares = np.full((4, 6), 0.5, np.float32)
    shares[1:3, 2:5] = 0.75
    sky, car = class_regions(labels, shares, NAMES)
    assert (sky.name, sky.area, sky.score) == ("sky", 18, 0.5)
    assert (car.name, car.area, car.score, car.box) == ("red car", 6, 0.75, (2, 1, 3, 2))
    assert np.array_equal(coco_mask.decode(car.rle), labels == 2)
    assert set(car.as_dict()) == {"id", "class", "class_index", "score", "area", "box", "rle"}


def test_segments_keep_their_ids_and_the_rest_is_left_out():
    ids = np.array([[1, 1, 3], [0, 2, 3]], np.int32)
    found = segment_regions(ids, np.ones((2, 3)), {1: 1, 2: 0, 3: 1}, NAMES)
    assert [(r.id, r.name, r.area) for r in found] == [
        (1, "building", 2),
        (3, "building", 2),
        (2, "sky", 1),
    ]
