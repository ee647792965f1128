"""One query per ground-truth mask: the assignment of least cost (DETR; costs of Mask2Former)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.batch_share import BatchShare, current_share
from maftp.losses.point_sampling import sample_masks, sample_points

if TYPE_CHECKING:
    from maftp.config import Params

Matches = Sequence[tuple[Tensor, Tensor]]
"""Per image the matched queries and their targets."""


def pairwise_mask_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every prediction with every target, averaged over points.

    Args:
        logits: (Q, P).
        labels: (G, P) in [0, 1].

    Returns:
        (Q, G).
    """
    # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t
    cost = F.softplus(logits).sum(1)[:, None] - logits @ labels.T
    return cost / logits.shape[1]


def pairwise_dice_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice distance of every prediction and every target, smoothed by one; shapes as above."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities @ labels.T)
    total = probabilities.sum(1)[:, None] + labels.sum(1)[None, :]
    return 1 - (overlap + 1) / (total + 1)


class HungarianMatcher(nn.Module):
    """Solves the assignment of queries to ground-truth masks, image by image."""

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

    def forward(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> Matches:
        """Match one prediction call at points drawn for it; see `match`."""
        points = self.draw_points(current_share(targets), device=outputs["pred_masks"].device)
        return self.match([outputs], targets, [points])[0]

    def draw_points(self, share: BatchShare, *, device: torch.device) -> list[Tensor]:
        """Draw the points of one prediction call: (1, P, 2) uniform in [0, 1] per image."""
        return share.rand_per_image(self.num_points, 2, device=device)

    @torch.no_grad()
    def match(
        self,
        calls: Sequence[Mapping[str, Tensor]],
        targets: Sequence[Mapping[str, Tensor]],
        points: Sequence[Sequence[Tensor]],
    ) -> list[Matches]:
        """Match several prediction calls; the costs of all come to the host together.

        Args:
            calls: mappings with "pred_logits" (B, Q, K+1) and "pred_masks" (B, Q, h, w).
            targets: per image "labels" (G,) and "masks" (G, H, W) bool.
            points: per call and image (1, P, 2), shared by all masks of the image.

        Returns:
            Per call and image the indices of matched queries, ascending, and of their targets, both
            min(Q, G) long and on the device of the predictions.
        """
        device = calls[0]["pred_masks"].device
        with torch.autocast(device.type, enabled=False):
            costs = [
                self._cost(call["pred_logits"][image].float(), masks.float(), target, place)
                for call, places in zip(calls, points, strict=True)
                for image, (masks, target, place) in enumerate(
                    zip(call["pred_masks"], targets, places, strict=True)
                )
            ]
        pairs = _assign(costs, device)
        count = len(targets)
        return [pairs[start : start + count] for start in range(0, len(pairs), count)]

    def _cost(
        self, logits: Tensor, masks: Tensor, target: Mapping[str, Tensor], points: Tensor
    ) -> Tensor:
        """Return the cost (Q, G) of one image."""
        if len(target["labels"]) == 0:
            return masks.new_zeros(len(masks), 0)
        predicted = sample_points(masks[None], points)[0]  # (Q, P)
        labels = sample_masks(target["masks"], points[0])  # (G, P)
        class_cost = -logits.softmax(-1)[:, target["labels"]]
        return (
            self.mask_weight * pairwise_mask_cost(predicted, labels)
            + self.class_weight * class_cost
            + self.dice_weight * pairwise_dice_cost(predicted, labels)
        )


def _assign(costs: Sequence[Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Solve the assignments of costs (Q, G_i) with one transfer there and one back."""
    from scipy.optimize import linear_sum_assignment  # a second to import, for training alone

    # SciPy refuses NaN; a diverged prediction shall reach the loss, where the loop names images.
    flat = torch.nan_to_num(torch.cat([cost.flatten() for cost in costs])).cpu()
    parts = flat.split([cost.numel() for cost in costs])
    solved = [
        np.stack(linear_sum_assignment(part.view(cost.shape).numpy()))
        for part, cost in zip(parts, costs, strict=True)
    ]
    pairs = torch.from_numpy(np.concatenate(solved, axis=1)).to(device)  # (2, number of pairs)
    queries, targets = (row.split([part.shape[1] for part in solved]) for row in pairs)
    return list(zip(queries, targets, strict=True))
