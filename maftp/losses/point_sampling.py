"""Values of maps at points of the unit square, and the choice of uncertain points (PointRend).

The mask losses look at points instead of pixels. Coordinates are relative, so predictions at
stride 4 and targets at full size are read at the same points without resizing either.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maftp.losses.batch_share import Rows


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points: bilinear between pixel centres, zero outside.

    Args:
        maps: (N, C, H, W).
        points: (N, P, 2) in [0, 1], x first; (0, 0) is the outer corner of the first pixel.

    Returns:
        (N, C, P).
    """
    grid = 2.0 * points.unsqueeze(2) - 1.0
    return F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False).squeeze(3)


def draw_points(
    rows: Rows,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw for each mask candidates to choose uncertain points from, and points that are kept.

    Args:
        rows: place of the N masks among those of the whole batch.
        num_points: P, points per mask.
        oversample_ratio: candidates per point, at least 1.
        importance_sample_ratio: share of points chosen for uncertainty.
        device: where to draw.

    Returns:
        (N, int(oversample_ratio * P), 2) and (N, P - int(importance_sample_ratio * P), 2), uniform.
    """
    num_uncertain = int(importance_sample_ratio * num_points)
    candidates = rows.rand(int(oversample_ratio * num_points), 2, device=device)
    return candidates, rows.rand(num_points - num_uncertain, 2, device=device)


@torch.no_grad()
def keep_uncertain(mask_logits: Tensor, candidates: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Keep the `count` candidates with the smallest |logit|, in no order, and append the others.

    Args:
        mask_logits: (N, 1, h, w).
        candidates: (N, C, 2).
        uniform: (N, R, 2).
        count: points to keep.

    Returns:
        (N, count + R, 2), the kept points first.
    """
    certainty = sample_points(mask_logits, candidates).squeeze(1).abs()
    kept = certainty.topk(count, dim=1, largest=False, sorted=False).indices
    uncertain = candidates.gather(1, kept.unsqueeze(2).expand(-1, -1, 2))
    return torch.cat([uncertain, uniform], dim=1)
