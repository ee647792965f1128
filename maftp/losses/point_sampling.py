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


@torch.no_grad()
def choose_uncertain_points(
    mask_logits: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    rows: Rows | None = None,
) -> Tensor:
    """Draw points per mask, most of them where the prediction is closest to undecided.

    Of int(oversample_ratio * num_points) uniform points, the int(importance_sample_ratio *
    num_points) with the smallest |logit| are kept; fresh uniform points fill up.

    Args:
        mask_logits: (N, 1, h, w).
        num_points: points per mask.
        oversample_ratio: candidates per point, at least 1.
        importance_sample_ratio: share of points chosen for uncertainty.
        rows: place of the N masks among those of the whole batch; None: they are all.

    Returns:
        (N, num_points, 2), the kept points first.
    """
    num_masks, device = len(mask_logits), mask_logits.device
    num_uncertain = int(importance_sample_ratio * num_points)
    rows = rows or Rows(before=0, own=num_masks, after=0)
    candidates = rows.rand(int(oversample_ratio * num_points), 2, device=device)
    uniform = rows.rand(num_points - num_uncertain, 2, device=device)
    if num_masks == 0:
        return uniform.new_zeros(0, num_points, 2)
    uncertainty = -sample_points(mask_logits, candidates).squeeze(1).abs()
    kept = uncertainty.topk(num_uncertain, dim=1).indices
    uncertain = candidates.gather(1, kept.unsqueeze(2).expand(-1, -1, 2))
    return torch.cat([uncertain, uniform], dim=1)
