"""Mask-aware loss: trains CLIP's class score to track mask quality.

MAFT+ (ECCV 2024), "mask-aware loss": every query's probability of a ground-truth class is drawn to
the query's IoU with that ground-truth mask, stretched so that the worst query has 0, the best 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maftp.constants import constant
from maftp.losses.batch_share import current_share


def mask_aware_loss(
    clip_logits: Tensor, mask_logits: Tensor, targets: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Smooth L1 distance between class probabilities and min-max ranked IoU, unweighted.

    The mean runs over all ground-truth masks of the batch times all queries, matched or not.

    Args:
        clip_logits: (B, Q, K+1) of the CLIP branch, void last; with gradient.
        mask_logits: (B, Q, h, w); no gradient flows to them.
        targets: per image "labels" (G,) int64 in [0, K) and "masks" (G, H, W) on the padded canvas.

    Returns:
        Scalar; zero, attached to the graph, when no image has ground truth.
    """
    probabilities = clip_logits[..., :-1].float().softmax(-1)
    errors = [probabilities[:0].flatten()]
    for image_probabilities, masks, target in zip(probabilities, mask_logits, targets, strict=True):
        if len(target["labels"]):
            quality = min_max(soft_iou(masks, target["masks"])).float()  # (G, Q)
            errors.append((image_probabilities[:, target["labels"]].T - quality).flatten())
    error = torch.cat(errors)
    total = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="sum")
    share = current_share(targets)
    wanted = (
        sum(share.masks) * probabilities.shape[1] / share.parts
    )  # numbers in a part, on average
    return total / (wanted or 1)


def min_max(iou: Tensor) -> Tensor:
    """Stretch each row of (G, Q) to [0, 1]; rows of equal values become zero."""
    low = iou.min(1, keepdim=True).values
    high = iou.max(1, keepdim=True).values
    return (iou - low) / (high - low + 1e-8)


@torch.no_grad()
def soft_iou(mask_logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of soft masks, resized to the targets' size, with binary ones, over the whole canvas.

    With U the bilinear resize, <U s, g> = <s, U^T g>: the few targets are brought to the masks'
    size by the transpose of U, instead of all Q masks to full size for every target.

    Args:
        mask_logits: (Q, h, w).
        targets: (G, H, W) bool or {0, 1}.

    Returns:
        (G, Q) float64, without gradient.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        # In double: where all queries are about equally good, min_max magnifies rounding.
        masks = mask_logits.float().sigmoid().flatten(1).double()  # (Q, h w)
        targets = targets.float()
        rows = _resize_matrix(mask_logits.shape[1], targets.shape[1], device=targets.device)
        columns = _resize_matrix(mask_logits.shape[2], targets.shape[2], device=targets.device)
        small = (rows.T @ targets @ columns).flatten(1).double()  # (G, h w), U^T g
        pixels = torch.outer(rows.sum(0), columns.sum(0)).flatten().double()  # (h w), U^T 1
        overlap = small @ masks.T
        area = targets.sum((1, 2), dtype=torch.float64)[:, None] + (masks @ pixels)[None, :]
        return overlap / (area - overlap + 1e-7)


@constant
def _resize_matrix(size: int, resized: int, *, device: torch.device) -> Tensor:
    """Return the bilinear resize along one axis as a matrix (resized, size), half-pixel centres."""
    identity = torch.eye(size, device=device)[None]
    return F.interpolate(identity, size=resized, mode="linear", align_corners=False)[0].T
