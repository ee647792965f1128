"""IoU matching of Mask-Adapter: for each ground-truth mask a prediction that overlaps it well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IOU = 0.7
"""A prediction has to exceed it."""


@dataclass(frozen=True)
class Pairs:
    """Predicted and true masks of an image, filled up to a fixed number."""

    predicted: Tensor
    """(n, h, w) logits; zeros in filled places."""
    truth: Tensor
    """(n, h, w) in [0, 1], with soft edges; zeros in filled places."""
    labels: Tensor
    """(n,) classes; -1 in filled places."""


@torch.no_grad()
def iou_pairs(
    mask_logits: Tensor,
    masks: Tensor,
    labels: Tensor,
    *,
    cut: float,
    count: int,
    generator: torch.Generator,
) -> Pairs:
    """Draw for each ground-truth mask one of the predictions that overlap it by more than 0.7.

    A prediction can serve several masks; classes play no part.

    Args:
        mask_logits: (Q, h, w).
        masks: (G, H, W) bool, none of them empty.
        labels: (G,) their classes.
        cut: probability from which on a pixel belongs to a prediction.
        count: pairs to return: as many are drawn where there are more.
        generator: of the draws, on the CPU.
    """
    size = mask_logits.shape[-2:]
    truth = _resized(masks.float(), size)  # (G, h, w)
    iou = pairwise_iou(truth > 0.5, mask_logits.sigmoid() >= cut).cpu()  # (G, Q)
    queries, targets = [], []
    for target, row in enumerate(iou > IOU):
        candidates = row.nonzero().flatten()
        if len(candidates):
            chosen = torch.randint(0, len(candidates), (1,), generator=generator)
            queries.append(int(candidates[chosen]))
            targets.append(target)
    if len(targets) > count:
        kept = torch.randperm(len(targets), generator=generator)[:count].tolist()
        queries, targets = [queries[i] for i in kept], [targets[i] for i in kept]
    missing = count - len(targets)
    return Pairs(
        predicted=F.pad(mask_logits[queries], (0, 0, 0, 0, 0, missing)),
        truth=F.pad(truth[targets], (0, 0, 0, 0, 0, missing)),
        labels=F.pad(labels[targets], (0, missing), value=-1),
    )


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU (A, B) of binary masks (A, h, w) and (B, h, w)."""
    first, second = first.flatten(1).float(), second.flatten(1).float()
    overlap = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1)[None] - overlap
    return overlap / (union + 1e-6)


def _resized(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize masks (G, H, W) bilinearly; as a batch, because there may be none."""
    return F.interpolate(masks[:, None], size=tuple(size), mode="bilinear", align_corners=False)[
        :, 0
    ]
