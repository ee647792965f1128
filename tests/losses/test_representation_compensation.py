"""Representation compensation: cells per scale, invariances, refused widths."""

from __future__ import annotations

import pytest
import torch

from maftp.errors import TrainingError
from maftp.losses.representation_compensation import (
    _descriptor,
    check_width,
    representation_compensation_loss,
)

SCALES = (1, 2, 4)


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((4, 4), (1, 2, 4)),
        ((5, 5), (1, 2, 5)),
        ((7, 7), (1, 2, 7)),
        ((32, 32), (1, 2, 4)),
        ((25, 38), (1, 2, 4)),
        ((38, 25), (1, 3, 6)),
        ((4, 9), (1, 2, 4)),
        ((9, 4), (2, 4, 9)),
    ],
)
def test_cells_per_side(size, cells):
    # Window floor(width / scale) before squaring, side max(h, w). Example (38, 25), scale 2: window
    # 12, 38 // 12 = 3 cells. The descriptor holds rows and columns: 2 C n entries per scale.
    descriptor = _descriptor(torch.rand(2, 3, *size), SCALES)
    assert descriptor.shape == (2, 2 * 3 * sum(cells))


def test_small_map_by_hand():
    # 2x2 map, scales (1, 2). Scale 1: window 2, mean 2.5, as row and as column sum. Scale 2: window
    # 1, sums over rows (1+3, 2+4), over columns (1+2, 3+4). Against zeros |e| >= 1 costs |e| - 1/2.
    # (2 + 2 + 3.5 + 5.5 + 2.5 + 6.5) / 6.
    student = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    torch.testing.assert_close(
        _descriptor(student, (1, 2)), torch.tensor([[2.5, 2.5, 4.0, 6.0, 3.0, 7.0]])
    )
    loss = representation_compensation_loss(student, torch.zeros(1, 1, 2, 2), scales=(1, 2))
    assert loss.item() == pytest.approx(22 / 6)


def test_equal_maps_cost_nothing():
    features = torch.randn(2, 3, 5, 8)
    assert representation_compensation_loss(features, features, scales=SCALES).item() == 0


def test_negative_features_are_ignored():
    student = -torch.rand(1, 2, 4, 4)
    loss = representation_compensation_loss(student, torch.zeros(1, 2, 4, 4), scales=SCALES)
    assert loss.item() == 0


def test_gradient_flows_to_the_student_only():
    student = torch.rand(1, 2, 4, 6, requires_grad=True)
    teacher = torch.rand(1, 2, 4, 6, requires_grad=True)
    representation_compensation_loss(student, teacher, scales=SCALES).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_too_narrow_map_is_refused():
    narrow, wide = torch.rand(1, 2, 8, 3), torch.rand(1, 2, 3, 8)
    assert representation_compensation_loss(wide, wide, scales=SCALES).item() == 0
    with pytest.raises(TrainingError, match="at least 128 pixels wide.*found 96"):
        representation_compensation_loss(narrow, narrow, scales=SCALES)
    check_width(3, scales=(1, 2))
