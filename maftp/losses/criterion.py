"""Set criterion of Mask2Former: class, mask and dice losses of matched queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.batch_share import BatchShare, current_share
from maftp.losses.matcher import HungarianMatcher, Matches
from maftp.losses.point_sampling import draw_points, keep_uncertain, sample_points
from maftp.losses.predictions import Predictions

if TYPE_CHECKING:
    from maftp.config import Params

Draws = tuple[Tensor, Tensor, Tensor]
"""Random points of L calls: for matching (B, L, P, 2); for each of N pairs in a call, candidates to
choose uncertain points from (L, N, C, 2) and points that are kept (L, N, R, 2)."""


Pairs = tuple[Tensor, Tensor]
"""(N,) queries, indices into those of all images (B, Q) flattened, and (N,) classes of targets."""


class SetCriterion(nn.Module):
    """Matches every prediction call with the targets anew and sums three losses over the pairs.

    All calls are treated together: their costs take one transfer to the host, and their losses are
    vectors with an entry a call.
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
        self, predictions: Predictions, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses of every prediction call.

        Args:
            predictions: of all calls, the decoder's last one last.
            targets: per image "labels" (G,) int64 in [0, K) and "masks" (G, H, W) bool; all images
                of the batch padded to one (H, W).

        Returns:
            `loss_ce`, `loss_mask`, `loss_dice` of the last call, and the same with suffix `_i` of
            the i-th before it.
        """
        return self.with_matches(predictions, targets)[0]

    def with_matches(
        self, predictions: Predictions, targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Pairs]:
        """Return the losses, as `forward`, and the pairs of the last call, for further ones."""
        share = current_share(targets)
        matching, candidates, uniform = self._draw(share, predictions.masks)
        matches = self.matcher(predictions.logits, predictions.masks, targets, matching)
        loss_mask, loss_dice = self._mask_losses(predictions, targets, matches, candidates, uniform)
        of_calls = {
            "loss_ce": self.class_weight * self._class_loss(predictions.logits, targets, matches),
            "loss_mask": self.mask_weight * loss_mask,
            "loss_dice": self.dice_weight * loss_dice,
        }
        parts = {name: losses.unbind() for name, losses in of_calls.items()}
        calls = len(parts["loss_ce"])
        suffixes = {calls - 1: ""} | {index: f"_{index}" for index in range(calls - 1)}
        named = {
            name + suffix: losses[call]
            for call, suffix in suffixes.items()
            for name, losses in parts.items()
        }
        return named, last_pairs(matches, targets, *predictions.logits.shape[1:3])

    def _draw(self, share: BatchShare, masks: Tensor) -> Draws:
        """Draw the points of all calls in the order of the public code: the last call's first."""
        calls, queries = masks.shape[1:3]
        drawn = []
        for _ in range(calls):
            points = self.matcher.draw_points(share, device=masks.device)
            pairs = draw_points(
                share.pair_rows(queries),
                num_points=self.num_points,
                oversample_ratio=self.oversample_ratio,
                importance_sample_ratio=self.importance_sample_ratio,
                device=masks.device,
            )
            drawn.append((points, *pairs))
        matching, candidates, uniform = zip(*drawn[1:], drawn[0], strict=True)
        by_call = torch.cat([points for images in matching for points in images])
        by_image = by_call.unflatten(0, (calls, -1)).transpose(0, 1)
        return by_image, torch.stack(candidates), torch.stack(uniform)

    def _class_loss(
        self, logits: Tensor, targets: Sequence[Mapping[str, Tensor]], matches: Matches
    ) -> Tensor:
        """Weighted cross-entropy (L,) over all queries of a call; unmatched ones are void.

        The mean is taken over the weights of the call, logits being (B, L, Q, K + 1).
        """
        labels = torch.cat([target["labels"] for target in targets])
        classes = labels.new_full((logits[..., 0].numel(),), self.num_classes)
        classes[matches.queries] = labels[matches.targets]
        losses = F.cross_entropy(
            logits.flatten(0, 2).float(), classes, self.empty_weight, reduction="none"
        )
        sums = losses.view(logits.shape[:3]).sum((0, 2))
        weights = self.empty_weight[classes].view(logits.shape[:3]).sum((0, 2))
        return sums / weights * self._weight_ratio(current_share(targets), queries=logits.shape[2])

    def _weight_ratio(self, share: BatchShare, *, queries: int) -> Tensor | float:
        """Return this part's sum of class weights over the mean of all parts.

        The cross-entropy divides by its own part's sum. Every class but void weighs 1.
        """
        if share.parts == 1:
            return 1.0
        matched = [min(queries, masks) for masks in share.masks]
        own = sum(matched[share.first : share.first + share.images]) / share.images
        mean = sum(matched) / len(matched)
        void = self.empty_weight[-1].double()
        return ((own + void * (queries - own)) / (mean + void * (queries - mean))).float()

    def _mask_losses(
        self,
        predictions: Predictions,
        targets: Sequence[Mapping[str, Tensor]],
        matches: Matches,
        candidates: Tensor,
        uniform: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mask and dice loss (L,) of the matched pairs at points of their own."""
        if not sum(matches.counts):
            zero = predictions.embeddings[:, :, :0].sum((0, 2, 3)) + predictions.features[:0].sum()
            return zero, zero  # attached to the graph, so that every worker has gradients
        calls, pairs = matches.queries.shape
        predicted = _pair_masks(predictions, matches).flatten(0, 1).float()  # (L N, 1, h, w)
        drawn = candidates.flatten(0, 1), uniform.flatten(0, 1)
        points = keep_uncertain(predicted, *drawn, self.num_points - uniform.shape[2])
        logits = sample_points(predicted, points).view(calls, pairs, -1)  # (L, N, P)
        labels = _sample_targets(targets, points.view(calls, pairs, -1, 2), matches)  # (L, N, P)
        num_masks = count_masks(targets)
        return mask_loss(logits, labels, num_masks), dice_loss(logits, labels, num_masks)


def last_pairs(
    matches: Matches, targets: Sequence[Mapping[str, Tensor]], calls: int, queries: int
) -> Pairs:
    """Return the matched pairs of the last call.

    Args:
        matches: of all calls.
        targets: per image "labels" (G,).
        calls: their number, L.
        queries: their number, Q.
    """
    last = matches.queries[-1]
    rows = last // (calls * queries) * queries + last % queries
    return rows, torch.cat([target["labels"] for target in targets])[matches.targets[-1]]


def _pair_masks(predictions: Predictions, matches: Matches) -> Tensor:
    """Return the mask logits of matched queries, with gradient, (L, N, 1, h, w)."""
    flat = predictions.embeddings.flatten(0, 2)
    chosen = flat.index_select(0, matches.queries.flatten()).view(*matches.queries.shape, -1)
    masks = [
        embeddings @ features.flatten(1)  # (L, n, h w)
        for embeddings, features in zip(
            chosen.split(matches.counts, dim=1), predictions.features.unbind(), strict=True
        )
        if embeddings.shape[1]
    ]
    return torch.cat(masks, dim=1).unflatten(2, (1, *predictions.features.shape[-2:]))


@torch.no_grad()
def _sample_targets(
    targets: Sequence[Mapping[str, Tensor]], points: Tensor, matches: Matches
) -> Tensor:
    """Read the targets of matched pairs at the pairs' points (L, N, P, 2): (L, N, P)."""
    before, found = 0, []
    parts = (part.split(matches.counts, dim=1) for part in (points, matches.targets))
    for target, place, rows in zip(targets, *parts, strict=True):
        if rows.shape[1]:
            found.append(_sample_image(target["masks"], place, rows - before))
        before += len(target["labels"])
    return torch.cat(found, dim=1)


def _sample_image(masks: Tensor, points: Tensor, rows: Tensor) -> Tensor:
    """Read the masks `rows` (L, n) of masks (G, H, W) at points (L, n, P, 2): (L, n, P).

    Each mask is read once, at the points of all calls: it gets a slot for every call.
    """
    calls = len(points)
    slots = rows * calls + torch.arange(calls, device=rows.device)[:, None]  # (L, n)
    sorted_points = points.new_zeros(len(masks) * calls, *points.shape[2:])
    sorted_points[slots] = points
    values = sample_points(masks[:, None].float(), sorted_points.view(len(masks), -1, 2))
    return values.view(len(sorted_points), -1)[slots]


def mask_loss(logits: Tensor, labels: Tensor, num_masks: float) -> Tensor:
    """Binary cross-entropy averaged over points, summed over pairs, divided by `num_masks`.

    Args:
        logits: (..., N, P).
        labels: (..., N, P) in [0, 1].
        num_masks: of the batch.

    Returns:
        (...).
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return losses.mean(-1).sum(-1) / num_masks


def dice_loss(logits: Tensor, labels: Tensor, num_masks: float) -> Tensor:
    """Dice distance smoothed by one, summed over pairs, divided by `num_masks`; shapes as above."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * labels).sum(-1)
    total = probabilities.sum(-1) + labels.sum(-1)
    return (1 - (overlap + 1) / (total + 1)).sum(-1) / num_masks


def count_masks(targets: Sequence[Mapping[str, Tensor]]) -> float:
    """Return the mean number of ground-truth masks per part of the batch.

    A batch without any counts as one mask.
    """
    share = current_share(targets)
    return max(sum(share.masks), 1) / share.parts
