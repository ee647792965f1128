"""One query per ground-truth mask: the assignment of least cost (DETR; costs of Mask2Former)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.batch_share import current_share
from maftp.losses.point_sampling import sample_points

if TYPE_CHECKING:
    from maftp.config import Params


def pairwise_mask_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every prediction with every target, averaged over points.

    Args:
        logits: (Q, P).
        labels: (G, P) in [0, 1].

    Returns:
        (Q, G).
    """
    cost = F.softplus(-logits) @ labels.T + F.softplus(logits) @ (1 - labels).T
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

    @torch.no_grad()
    def forward(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Match one prediction call.

        Args:
            outputs: "pred_logits" (B, Q, K+1) and "pred_masks" (B, Q, h, w).
            targets: per image "labels" (G,) and "masks" (G, H, W).

        Returns:
            Per image the indices of matched queries, ascending, and of their targets, both on the
            CPU and min(Q, G) long.
        """
        device = outputs["pred_masks"].device
        points = current_share(targets).rand_per_image(self.num_points, 2, device=device)
        rows = zip(outputs["pred_logits"], outputs["pred_masks"], targets, points, strict=True)
        with torch.autocast(device.type, enabled=False):
            costs = [
                self._cost(logits.float(), masks.float(), target, image_points)
                for logits, masks, target, image_points in rows
            ]
        return [_assign(cost) for cost in costs]

    def _cost(
        self, logits: Tensor, masks: Tensor, target: Mapping[str, Tensor], points: Tensor
    ) -> Tensor:
        """Return the cost (Q, G) of one image; the points (1, P, 2) are shared by all its masks."""
        if len(target["labels"]) == 0:
            return masks.new_zeros(len(masks), 0)
        predicted = sample_points(masks[None], points)[0]  # (Q, P)
        labels = sample_points(target["masks"][None].float(), points)[0]  # (G, P)
        class_cost = -logits.softmax(-1)[:, target["labels"]]
        return (
            self.mask_weight * pairwise_mask_cost(predicted, labels)
            + self.class_weight * class_cost
            + self.dice_weight * pairwise_dice_cost(predicted, labels)
        )


def _assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment  # a second to import, for training alone

    # SciPy refuses NaN; a diverged prediction shall reach the loss, where the loop names images.
    queries, targets = linear_sum_assignment(torch.nan_to_num(cost).cpu().numpy())
    return torch.as_tensor(queries), torch.as_tensor(targets)
