"""The two losses of Mask-Adapter: names of masks, and equal embeddings of true and found masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def slot_classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the slots that hold a mask, unweighted.

    Args:
        logits: (B, N, K+1), void last, as a class that is never right.
        labels: (B, N) int64 in [0, K), -1 for slots that were filled up.

    Returns:
        Scalar; zero, attached to the graph, when no slot holds a mask.
    """
    logits, labels = logits.float().flatten(0, 1), labels.flatten()
    if not (labels >= 0).any():
        return logits.sum() * 0
    return F.cross_entropy(logits, labels, ignore_index=-1)


def consistency_loss(predicted: Tensor, truth: Tensor, *, detach_truth: bool) -> Tensor:
    """Return one minus the mean cosine of paired embeddings (B, n, D), unweighted.

    Args:
        predicted: embeddings of predicted masks.
        truth: embeddings of the ground-truth masks that they match, or of filled slots.
        detach_truth: let the gradient reach the predicted side alone.
    """
    truth = truth.detach() if detach_truth else truth
    return 1 - F.cosine_similarity(predicted.float(), truth.float(), dim=-1).mean()
