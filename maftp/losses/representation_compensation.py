"""Representation compensation: keep the fine-tuned CLIP's dense features near the frozen CLIP's.

MAFT+ (ECCV 2024), "representation compensation": both maps are pooled at several scales and
compared by their row and column sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maftp.errors import TrainingError


def representation_compensation_loss(
    student: Tensor, teacher: Tensor, *, scales: Sequence[int]
) -> Tensor:
    """Smooth L1 distance between the pooled descriptors of two feature maps, unweighted.

    Args:
        student: (B, C, h, w), with gradient.
        teacher: (B, C, h, w); no gradient flows to it.
        scales: cells a square map is pooled to per side.

    Returns:
        Scalar, zero for equal inputs. Negative features count as zero.

    Raises:
        TrainingError: the map is narrower than the largest scale.
    """
    check_width(student.shape[-1], scales=scales)
    with torch.autocast(student.device.type, enabled=False):
        # All that follows the cut at zero is linear: the difference of the maps goes through once.
        difference = student.float().clamp(min=0) - teacher.detach().float().clamp(min=0)
        error = _descriptor(difference, scales)
        return F.smooth_l1_loss(error, torch.zeros_like(error))


def check_width(width: int, *, scales: Sequence[int]) -> None:
    """Refuse a stride-32 map so narrow that the pooling window of the largest scale is empty.

    Raises:
        TrainingError: `width` is below the largest scale.
    """
    if width < max(scales):
        raise TrainingError(
            f"representation compensation needs inputs at least {32 * max(scales)} pixels wide "
            f"(32 x the largest of train.rc_scales {tuple(scales)}), found {32 * width}; enlarge "
            "input.train.short_side or crop_size, or leave out the large scales"
        )


def _descriptor(features: Tensor, scales: Sequence[int]) -> Tensor:
    """Return row and column sums at every scale, (B, 2 C (n_1 + n_2 + ...))."""
    height, width = features.shape[-2:]
    if height != width:
        side = max(height, width)
        features = F.interpolate(features, size=(side, side), mode="bilinear", align_corners=False)
    parts = []
    for scale in scales:
        # The window comes from the width before squaring: portrait maps give more cells and lose
        # the right and bottom remainder. Released models were trained so.
        pooled = F.avg_pool2d(features, width // scale)
        parts += [pooled.sum(2).flatten(1), pooled.sum(3).flatten(1)]
    return torch.cat(parts, dim=1)
