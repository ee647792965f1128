"""Set criterion of Mask2Former: class, mask and dice losses of matched queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.batch_share import BatchShare, current_share
from maftp.losses.matcher import HungarianMatcher, Matches
from maftp.losses.point_sampling import draw_points, keep_uncertain, sample_masks, sample_points

if TYPE_CHECKING:
    from maftp.config import Params


@dataclass(frozen=True)
class _Draws:
    """Random points of one prediction call."""

    matching: list[Tensor]
    """Per image (1, P, 2)."""
    candidates: Tensor
    """(N, C, 2), to choose uncertain points of the N pairs from."""
    uniform: Tensor
    """(N, R, 2)."""


class SetCriterion(nn.Module):
    """Matches every prediction call with the targets anew and sums three losses over the pairs.

    The points of all calls are drawn first, so that their matching needs a single transfer to the
    host; targets stay binary and are read at points only.
    """

    empty_weight: Tensor
    """(K+1,): weight of each class in the cross-entropy; a name of released checkpoints."""

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
    ) -> None:
        """Set the number of training classes, the weights of the losses and the point sampling."""
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    @classmethod
    def from_params(cls, params: Params, *, num_classes: int) -> SetCriterion:
        """Build the criterion of `params.train` for `num_classes` training classes."""
        train = params.train
        return cls(
            num_classes=num_classes,
            matcher=HungarianMatcher.from_params(params),
            class_weight=train.class_weight,
            mask_weight=train.mask_weight,
            dice_weight=train.dice_weight,
            no_object_weight=train.no_object_weight,
            num_points=train.num_points,
            oversample_ratio=train.oversample_ratio,
            importance_sample_ratio=train.importance_sample_ratio,
        )

    def forward(
        self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses of the final and of every auxiliary prediction call.

        Args:
            outputs: "pred_logits" (B, Q, K+1), "pred_masks" (B, Q, h, w) and optionally
                "aux_outputs", a list of such mappings, earliest call first.
            targets: per image "labels" (G,) int64 in [0, K) and "masks" (G, H, W) bool; all images
                of the batch padded to one (H, W).

        Returns:
            `loss_ce`, `loss_mask`, `loss_dice`, and the same with suffix `_i` for auxiliary call i.
        """
        return self.with_matches(outputs, targets)[0]

    def with_matches(
        self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Matches]:
        """Return the losses, as `forward`, and the matches of the final call, for further ones."""
        calls = [outputs, *outputs.get("aux_outputs", ())]
        device = outputs["pred_masks"].device
        num_masks = count_masks(targets, device=device)
        share, num_queries = current_share(targets), outputs["pred_masks"].shape[1]
        draws = [self._draw(share, num_queries, device) for _ in calls]
        matches = self.matcher.match(calls, targets, [draw.matching for draw in draws])
        losses = {}
        for index, (call, pairs, draw) in enumerate(zip(calls, matches, draws, strict=True)):
            suffix = f"_{index - 1}" if index else ""
            for name, loss in self._call_losses(call, targets, pairs, draw, num_masks).items():
                losses[name + suffix] = loss
        return losses, matches[0]

    def _draw(self, share: BatchShare, num_queries: int, device: torch.device) -> _Draws:
        """Draw the points of one prediction call, in the order of the public code."""
        matching = self.matcher.draw_points(share, device=device)
        candidates, uniform = draw_points(
            share.pair_rows(num_queries),
            num_points=self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_sample_ratio=self.importance_sample_ratio,
            device=device,
        )
        return _Draws(matching, candidates, uniform)

    def _call_losses(
        self,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        matches: Matches,
        draws: _Draws,
        num_masks: Tensor,
    ) -> dict[str, Tensor]:
        loss_mask, loss_dice = self._mask_losses(
            outputs["pred_masks"], targets, matches, draws, num_masks
        )
        return {
            "loss_ce": self.class_weight
            * self._class_loss(outputs["pred_logits"], targets, matches),
            "loss_mask": self.mask_weight * loss_mask,
            "loss_dice": self.dice_weight * loss_dice,
        }

    def _class_loss(
        self, logits: Tensor, targets: Sequence[Mapping[str, Tensor]], matches: Matches
    ) -> Tensor:
        """Weighted cross-entropy over all queries (B, Q, K+1); unmatched ones are void."""
        classes = logits.new_full(logits.shape[:2], self.num_classes, dtype=torch.int64)
        for image, ((queries, chosen), target) in enumerate(zip(matches, targets, strict=True)):
            classes[image, queries] = target["labels"][chosen]
        loss = F.cross_entropy(logits.float().transpose(1, 2), classes, self.empty_weight)
        return loss * self._weight_ratio(current_share(targets), queries=logits.shape[1])

    def _weight_ratio(self, share: BatchShare, *, queries: int) -> Tensor | float:
        """Return this part's sum of class weights over the mean of all parts.

        The cross-entropy divides by its own part's sum. Every class but void weighs 1.
        """
        if share.parts == 1:
            return 1.0
        pairs = [min(queries, masks) for masks in share.masks]
        matched = torch.tensor(pairs, dtype=torch.float64, device=self.empty_weight.device)
        weights = matched + self.empty_weight[-1].double() * (queries - matched)  # (B of the whole)
        own = weights[share.first : share.first + share.images].mean()
        return (own / weights.mean()).float()

    def _mask_losses(
        self,
        masks: Tensor,
        targets: Sequence[Mapping[str, Tensor]],
        matches: Matches,
        draws: _Draws,
        num_masks: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mask and dice loss of the N matched pairs at points of their own; masks (B, Q, h, w)."""
        predicted = torch.cat([mask[q] for mask, (q, _) in zip(masks, matches, strict=True)])
        if len(predicted) == 0:
            zero = masks[:0].sum()  # attached to the graph, so that every worker has gradients
            return zero, zero
        predicted = predicted.unsqueeze(1).float()  # (N, 1, h, w)
        count = self.num_points - draws.uniform.shape[1]
        points = keep_uncertain(predicted, draws.candidates, draws.uniform, count)  # (N, P, 2)
        logits = sample_points(predicted, points).squeeze(1)  # (N, P)
        by_image = points.split([len(chosen) for _, chosen in matches])
        labels = torch.cat(
            [
                sample_masks(target["masks"], place, chosen)
                for target, place, (_, chosen) in zip(targets, by_image, matches, strict=True)
                if len(chosen)
            ]
        )  # (N, P)
        return mask_loss(logits, labels, num_masks), dice_loss(logits, labels, num_masks)


def mask_loss(logits: Tensor, labels: Tensor, num_masks: Tensor) -> Tensor:
    """Binary cross-entropy averaged over points, summed over pairs, divided by `num_masks`.

    Args:
        logits: (N, P).
        labels: (N, P) in [0, 1].
        num_masks: scalar.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return losses.mean(1).sum() / num_masks


def dice_loss(logits: Tensor, labels: Tensor, num_masks: Tensor) -> Tensor:
    """Dice distance smoothed by one, summed over pairs, divided by `num_masks`; shapes as above."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * labels).sum(1)
    total = probabilities.sum(1) + labels.sum(1)
    return (1 - (overlap + 1) / (total + 1)).sum() / num_masks


def count_masks(targets: Sequence[Mapping[str, Tensor]], *, device: torch.device) -> Tensor:
    """Return the mean number of ground-truth masks per part of the batch, as a scalar.

    A batch without any counts as one mask.
    """
    share = current_share(targets)
    return torch.tensor(max(sum(share.masks), 1) / share.parts, device=device)
