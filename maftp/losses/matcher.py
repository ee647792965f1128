"""One query per ground-truth mask: the assignment of least cost (DETR; costs of Mask2Former)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.batch_share import BatchShare
from maftp.losses.point_sampling import sample_points

if TYPE_CHECKING:
    from maftp.config import Params


@dataclass(frozen=True)
class Matches:
    """Matched pairs: in each of L calls N, image after image, and by query within an image."""

    counts: tuple[int, ...]
    """Pairs of every image, min(Q, G); N in all."""
    queries: Tensor
    """(L, N) indices into the queries of all images and calls, (B, L, Q) flattened."""
    targets: Tensor
    """(L, N) indices into the targets of all images, one image's after the other's."""


def pairwise_mask_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every prediction with every target, averaged over points.

    Args:
        logits: (..., Q, P).
        labels: (..., G, P) in [0, 1].

    Returns:
        (..., Q, G).
    """
    # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t
    cost = F.softplus(logits).sum(-1, keepdim=True) - logits @ labels.mT
    return cost / logits.shape[-1]


def pairwise_dice_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice distance of every prediction and every target, smoothed by one; shapes as above."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities @ labels.mT)
    total = probabilities.sum(-1, keepdim=True) + labels.sum(-1)[..., None, :]
    return 1 - (overlap + 1) / (total + 1)


class HungarianMatcher(nn.Module):
    """Solves the assignment of queries to ground-truth masks, image by image and call by call."""

    def __init__(
        self, *, class_weight: float, mask_weight: float, dice_weight: float, num_points: int
    ) -> None:
        """Set the weights of the three costs and the number of points per mask."""
        super().__init__()
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @classmethod
    def from_params(cls, params: Params) -> HungarianMatcher:
        """Build the matcher of `params.train`."""
        train = params.train
        return cls(
            class_weight=train.class_weight,
            mask_weight=train.mask_weight,
            dice_weight=train.dice_weight,
            num_points=train.num_points,
        )

    def draw_points(self, share: BatchShare, *, device: torch.device) -> list[Tensor]:
        """Draw the points of one prediction call: (1, P, 2) uniform in [0, 1] per image."""
        return share.rand_per_image(self.num_points, 2, device=device)

    @torch.no_grad()
    def forward(
        self,
        logits: Tensor,
        masks: Tensor,
        targets: Sequence[Mapping[str, Tensor]],
        points: Tensor,
    ) -> Matches:
        """Match all prediction calls; the costs of all come to the host together.

        Args:
            logits: (B, L, Q, K + 1) class logits.
            masks: (B, L, Q, h, w) mask logits.
            targets: per image "labels" (G,) and "masks" (G, H, W) bool.
            points: (B, L, P, 2), shared by all masks of an image in a call.
        """
        with torch.autocast(masks.device.type, enabled=False):
            probabilities = logits.float().softmax(-1)
            costs = [
                self._cost(probabilities[image], masks[image].float(), target, points[image])
                for image, target in enumerate(targets)
            ]
        return _assign(costs, masks.device)

    def _cost(
        self, probabilities: Tensor, masks: Tensor, target: Mapping[str, Tensor], points: Tensor
    ) -> Tensor:
        """Return the cost (L, Q, G) of one image."""
        calls, queries = masks.shape[:2]
        if len(target["labels"]) == 0:
            return masks.new_zeros(calls, queries, 0)
        predicted = sample_points(masks, points)  # (L, Q, P)
        wanted = sample_points(target["masks"][None].float(), points.flatten(0, 1)[None])
        labels = wanted[0].unflatten(1, (calls, -1)).transpose(0, 1)  # (L, G, P)
        return (
            self.mask_weight * pairwise_mask_cost(predicted, labels)
            - self.class_weight * probabilities[..., target["labels"]]
            + self.dice_weight * pairwise_dice_cost(predicted, labels)
        )


def _assign(costs: Sequence[Tensor], device: torch.device) -> Matches:
    """Solve the assignments of costs (L, Q, G_i) with one transfer there and one back."""
    # SciPy refuses NaN; a diverged prediction shall reach the loss, where the loop names images.
    flat = torch.nan_to_num(torch.cat([cost.flatten() for cost in costs])).cpu()
    parts = flat.split([cost.numel() for cost in costs])
    solved, before = [], 0
    for image, (part, cost) in enumerate(zip(parts, costs, strict=True)):
        pairs = _solve(part.view(cost.shape).numpy())  # (2, L, n)
        calls, queries, targets = cost.shape
        pairs[0] += ((image * calls + np.arange(calls)) * queries)[:, None]
        pairs[1] += before
        before += targets
        solved.append(pairs)
    found = torch.from_numpy(np.concatenate(solved, axis=2))
    if device.type == "cuda":  # from pinned memory the host does not wait for the copy
        found = found.pin_memory()
    queries, targets = found.to(device, non_blocking=True)
    return Matches(tuple(pairs.shape[2] for pairs in solved), queries, targets)


def _solve(costs: np.ndarray) -> np.ndarray:
    """Return for every call's cost, (L, Q, G) in all, the pairs of query and target, (2, L, n)."""
    from scipy.optimize import linear_sum_assignment  # a second to import, for training alone

    return np.stack([np.stack(linear_sum_assignment(cost)) for cost in costs], axis=1)
