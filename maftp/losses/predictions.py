"""What the transformer decoder predicts, as the losses need it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """The predictions of L calls: one before the decoder's first layer and one after every layer.

    All calls lie in one tensor, so that losses treat them together. Mask logits are the product of
    embeddings and features; gradients take that way, for the few masks that match a target alone.
    """

    logits: Tensor
    """(B, L, Q, K + 1) class logits, void last."""
    masks: Tensor
    """(B, L, Q, h, w) mask logits at stride 4, without gradient."""
    embeddings: Tensor
    """(B, L, Q, d)."""
    features: Tensor
    """(B, d, h, w)."""
