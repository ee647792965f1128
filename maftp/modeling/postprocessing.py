"""From class scores and masks to semantic, panoptic and instance results (Mask2Former's rules)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

MAX_INSTANCES = 100
InstanceQuality = Literal["probability", "logit"]
MaskKind = Literal["logits", "probabilities"]
"""What masks hold when they are resized: most methods resize logits, MaskCLIP++ probabilities."""


class Segment(TypedDict):
    """One segment of a panoptic result."""

    id: int
    isthing: bool
    category_id: int


def crop_and_resize(maps: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Cut the padding off maps (C, H, W) at right and bottom and resize to `size`, bilinearly."""
    return resize_maps(maps[:, : image_size[0], : image_size[1]], size)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (C, h, w) bilinearly; as a batch, because there may be none."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True)
class Frame:
    """Where an image lies on the padded canvas, and the size its results shall have."""

    canvas: tuple[int, int]
    """(H, W) of the padded network input."""
    image_size: tuple[int, int]
    """(height, width) of the part that is image, at the upper left."""
    size: tuple[int, int]
    """(height, width) wanted."""

    def upsample(self, masks: Tensor) -> Tensor:
        """Resize maps (C, h, w) to the canvas."""
        return resize_maps(masks, self.canvas)

    def fit(self, maps: Tensor) -> Tensor:
        """Cut the padding off maps (C, H, W) and resize them to the size wanted."""
        return crop_and_resize(maps, self.image_size, self.size)


def confident_queries(scores: Tensor, threshold: float) -> Tensor:
    """Tell which queries have a best class that is not void and above `threshold`, (Q,) bool."""
    confidence, labels = scores.softmax(-1).max(-1)
    return labels.ne(scores.shape[-1] - 1) & (confidence > threshold)


def mask_probabilities(masks: Tensor, kind: MaskKind) -> Tensor:
    """Return masks of a kind as probabilities."""
    return masks.sigmoid() if kind == "logits" else masks


def semantic_inference(scores: Tensor, masks: Tensor, *, kind: MaskKind = "logits") -> Tensor:
    """Sum every query's class probabilities over the image, weighted by its mask.

    Args:
        scores: (Q, K + 1) log scores, void last.
        masks: (Q, H, W).
        kind: what they hold.

    Returns:
        (K, H, W), not normalised; values can exceed 1.
    """
    probabilities = scores.softmax(-1)[:, :-1]
    return torch.einsum("qk,qhw->khw", probabilities, mask_probabilities(masks, kind))


def panoptic_inference(
    scores: Tensor,
    masks: Tensor,
    things: Collection[int],
    *,
    object_threshold: float,
    overlap_threshold: float,
    kind: MaskKind = "logits",
) -> tuple[Tensor, list[Segment]]:
    """Give each pixel to the query with the largest product of class and mask probability.

    Args:
        scores: (Q, K + 1) log scores, void last.
        masks: (Q, H, W).
        things: class indices that are things; segments of one stuff class are joined.
        object_threshold: a query counts when its best class is not void and above this.
        overlap_threshold: and when it wins at least this part of its own area.
        kind: what the masks hold.

    Returns:
        (H, W) int32 segment ids, 0 where there is none, and the segments in order of id.
    """
    keep = confident_queries(scores, object_threshold)
    confidence, labels = scores[keep].softmax(-1).max(-1)
    count = len(labels)
    if count == 0:
        return torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device), []
    probabilities = mask_probabilities(masks[keep], kind)  # (n, H, W)
    winners = (confidence[:, None, None] * probabilities).argmax(0)  # (H, W)
    inside = probabilities.gather(0, winners[None])[0] >= 0.5
    areas = (probabilities >= 0.5).flatten(1).sum(1)
    won = winners.flatten().bincount(minlength=count)
    kept = torch.where(inside, winners, count).flatten().bincount(minlength=count + 1)[:count]
    # The host decides with one look at all queries.
    queries = torch.stack([labels, areas, won, kept], dim=1).tolist()
    segments, ids = _segments(queries, things, overlap_threshold=overlap_threshold)
    table = torch.tensor(ids, dtype=torch.int32, device=masks.device)
    return torch.where(inside, table[winners], 0), segments


def _segments(
    queries: Iterable[tuple[int, int, int, int]],
    things: Collection[int],
    *,
    overlap_threshold: float,
) -> tuple[list[Segment], list[int]]:
    """Make segments of queries: label, pixels of the mask, pixels won, and pixels in both.

    Returns:
        The segments, and for every query the id of its own, 0 where it has none.
    """
    segments: list[Segment] = []
    ids: list[int] = []
    stuff: dict[int, int] = {}
    for label, area, won, kept in queries:
        if not kept or won / area < overlap_threshold:
            ids.append(0)
            continue
        if label in stuff:
            ids.append(stuff[label])
            continue
        segment = Segment(id=len(segments) + 1, isthing=label in things, category_id=label)
        segments.append(segment)
        ids.append(segment["id"])
        if not segment["isthing"]:
            stuff[label] = segment["id"]
    return segments, ids


def instance_inference(
    scores: Tensor,
    masks: Tensor,
    things: Collection[int] | None,
    *,
    quality: InstanceQuality = "probability",
    kind: MaskKind = "logits",
) -> Instances:
    """Take the best pairs of query and class as instances; boxes are not computed and stay zero.

    Args:
        scores: (Q, K + 1) log scores, void last.
        masks: (Q, H, W).
        things: keep these classes only; None keeps all.
        quality: what the score has of the mask, the mean of its probabilities or of its logits;
            with logits, as OVRCOAT's public code has it, scores exceed 1.
        kind: what the masks hold.

    Returns:
        At most 100 instances with `pred_masks` (bool), `pred_boxes`, `scores` and `pred_classes`.
    """
    probabilities = scores.softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    count = min(MAX_INSTANCES, probabilities.numel())
    best, flat = probabilities.flatten().topk(count, sorted=False)
    labels, queries = flat % num_classes, flat // num_classes
    if things is not None:
        allowed = torch.tensor(sorted(things), dtype=labels.dtype, device=labels.device)
        keep = torch.isin(labels, allowed)
        best, labels, queries = best[keep], labels[keep], queries[keep]
    chosen = masks[queries]
    inside = chosen > (0.0 if kind == "logits" else 0.5)
    area = inside.flatten(1).sum(1) + 1e-6
    values = chosen if quality == "logit" else mask_probabilities(chosen, kind)
    quality_of_masks = (values * inside).flatten(1).sum(1) / area
    result = Instances(tuple(masks.shape[-2:]))
    result.pred_masks = inside
    result.pred_boxes = Boxes(torch.zeros(len(labels), 4, device=masks.device))
    result.scores = best * quality_of_masks
    result.pred_classes = labels
    return result
