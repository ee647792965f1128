"""Predictions of given logits and masks, for losses without a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maftp.losses.predictions import Predictions

Call = tuple[Tensor, Tensor]
"""Class logits (B, Q, K + 1) and mask logits (B, Q, h, w)."""


def predictions(*calls: Call) -> Predictions:
    """Join prediction calls, earliest first; gradients reach their tensors.

    The features are unit vectors, one per pixel, so that a mask is its own embedding.
    """
    logits, masks = (torch.stack(tensors, dim=1) for tensors in zip(*calls, strict=True))
    height, width = masks.shape[-2:]
    features = torch.eye(height * width).view(1, -1, height, width)
    return Predictions(
        logits=logits,
        masks=masks.detach(),
        embeddings=masks.flatten(3),
        features=features.expand(len(masks), -1, -1, -1),
    )


def random_calls(count: int, *, batch: int = 1, queries: int = 2) -> Sequence[Call]:
    """Draw calls with three classes and void, and masks of 4 x 4, with gradients."""
    return [
        (
            torch.randn(batch, queries, 4, requires_grad=True),
            torch.randn(batch, queries, 4, 4, requires_grad=True),
        )
        for _ in range(count)
    ]
