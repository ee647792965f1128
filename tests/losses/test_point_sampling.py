"""Reading maps at points, and the choice of uncertain points."""

from __future__ import annotations

import pytest
import torch

from maftp.losses.batch_share import Rows
from maftp.losses.point_sampling import (
    draw_points,
    keep_uncertain,
    sample_points,
)

CPU = torch.device("cpu")


def test_points_are_relative_with_half_pixel_centres():
    # A 2x2 map has its pixel centres at 1/4 and 3/4; x comes first. (0.5, 0.25) lies between the
    # two pixels of the upper row; at (0, 0) three of the four neighbours are zero padding.
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.25], [0.25, 0.75], [0.0, 0.0]]])
    torch.testing.assert_close(
        sample_points(values, points), torch.tensor([[[1.0, 2.0, 1.5, 3.0, 0.25]]])
    )


def test_resolution_does_not_matter_for_constant_maps():
    points = torch.rand(1, 50, 2) * 0.8 + 0.1
    small, large = torch.full((1, 1, 8, 8), 3.0), torch.full((1, 1, 64, 96), 3.0)
    torch.testing.assert_close(sample_points(small, points), sample_points(large, points))


def test_kept_points_are_the_most_uncertain(monkeypatch):
    # The left half of the map is decided (9), the right half is not (0.5): with 4 points, 3
    # candidates per point and a share of 3/4, 3 of 12 candidates are kept, all on the right.
    logits = torch.full((1, 1, 8, 8), 9.0)
    logits[..., 4:] = 0.5
    shapes = []
    rand = torch.rand

    def recorded(*shape: int, **options: object) -> torch.Tensor:
        shapes.append(shape)
        return rand(*shape, generator=torch.Generator().manual_seed(len(shapes)), **options)

    monkeypatch.setattr(torch, "rand", recorded)
    drawn = draw_points(
        Rows(before=0, own=1, after=0),
        num_points=4,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        device=CPU,
    )
    points = keep_uncertain(logits, *drawn, 3)
    assert shapes == [(1, 12, 2), (1, 1, 2)]
    assert points.shape == (1, 4, 2)
    assert (points[0, :3, 0] > 0.5).all()
    # The random point is the second draw, after the kept ones.
    torch.testing.assert_close(
        points[0, 3:], rand(1, 1, 2, generator=torch.Generator().manual_seed(2))[0]
    )


@pytest.mark.parametrize(("num_points", "kept"), [(12544, 9408), (1024, 768)])
def test_share_of_uncertain_points(monkeypatch, num_points, kept):
    shapes = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *s, **o: shapes.append(s) or rand(*s, **o))
    draw_points(
        Rows(before=0, own=2, after=0),
        num_points=num_points,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        device=CPU,
    )
    assert shapes == [(2, 3 * num_points, 2), (2, num_points - kept, 2)]


def test_corners_of_the_unit_square_read_a_quarter():
    corners = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(
        sample_points(torch.ones(1, 1, 2, 3), corners), torch.full((1, 1, 4), 0.25)
    )
