"""Cross-entropy of named ground-truth masks, images and classes weighed alike (MaskCLIP++)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maftp.losses.batch_share import BatchShare


def balanced_mask_loss(
    logits: Sequence[Tensor], labels: Sequence[Tensor], share: BatchShare
) -> Tensor:
    """Return the weighted sum of the masks' cross-entropies.

    Mask j of image b weighs 1 / (images with masks * classes in b * masks of j's class in b):
    images count alike, and so do the classes of an image and the masks of a class.

    Args:
        logits: per image (G, K), without void.
        labels: per image (G,) int64 in [0, K).
        share: the part of the batch that the images are.

    Returns:
        Scalar; zero, attached to the graph, when no image has a mask.
    """
    images = sum(masks > 0 for masks in share.masks) / share.parts  # in a part, on average
    total = torch.stack([image.float().sum() * 0 for image in logits]).sum()
    for image, classes in zip(logits, labels, strict=True):
        if len(classes):
            losses = F.cross_entropy(image.float(), classes, reduction="none")
            total = total + (losses * mask_weights(classes)).sum() / images
    return total


def mask_weights(labels: Tensor) -> Tensor:
    """Return the weight of each mask of an image, (G,), which sum to one."""
    _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[inverse])
