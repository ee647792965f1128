"""Masks kept as a label map."""

from __future__ import annotations

import torch
from detectron2.structures import Instances

from maftp.data.disjoint_masks import DisjointMasks


def test_a_mask_is_the_pixels_of_its_value():
    labels = torch.tensor([[7, 7, 3], [255, 3, 7]], dtype=torch.uint8)
    masks = DisjointMasks(labels, torch.tensor([3, 9, 7]))
    expected = [[[0, 0, 1], [0, 1, 0]], [[0, 0, 0]] * 2, [[1, 1, 0], [0, 0, 1]]]
    assert len(masks) == 3
    assert (
        masks.tensor.dtype == torch.bool
        and masks.tensor.tolist() == torch.tensor(expected).bool().tolist()
    )


def test_none_at_all():
    masks = DisjointMasks(torch.zeros(4, 5, dtype=torch.int32), torch.zeros(0, dtype=torch.int64))
    assert masks.tensor.shape == (0, 4, 5)


def test_instances_move_it():
    instances = Instances((2, 2))
    instances.gt_masks = DisjointMasks(torch.zeros(2, 2, dtype=torch.uint8), torch.tensor([0]))
    moved = instances.to("meta").gt_masks
    assert len(moved) == 1 and moved.labels.is_meta and moved.tensor.is_meta
