"""Mask pooling and open-vocabulary classification: cosine logits, best synonym, class scores.

Mask pooling follows FC-CLIP; the class scores are MAFT+'s (CLIP decides the class, the head decides
whether there is an object) and FC-CLIP's geometric ensemble.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOGIT_SCALE = 100.0
SCORE_FLOOR = 1e-8
"""Added to probabilities before the logarithm; part of the released models' outputs."""


def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Average features under each binarised mask; an empty mask gives zeros.

    The logits, not probabilities, are resized to the features' size and cut at zero. No gradient
    reaches the masks.

    Args:
        features: (B, C, h, w).
        mask_logits: (B, Q, h', w').

    Returns:
        (B, Q, C).
    """
    mask = _binary_masks(mask_logits, features).flatten(2)  # (B, Q, h w)
    # Half of the division comes before the sum, half after it: float16 holds neither the sum over
    # a map nor, to more than two digits, the share of one pixel.
    root = (mask.sum(-1, keepdim=True) + 1e-8).sqrt()
    return (mask / root) @ features.flatten(2).mT / root


def soft_pool(features: Tensor, weights: Tensor, *, floor: float) -> Tensor:
    """Average features with weights of their own size; all-zero weights give zeros.

    Args:
        features: (B, C, h, w).
        weights: (B, Q, h, w), not negative.
        floor: added to the sum of the weights.

    Returns:
        (B, Q, C).
    """
    weights = weights / (weights.sum(dim=(-2, -1), keepdim=True) + floor)  # float16's range
    return torch.einsum("bchw,bqhw->bqc", features, weights)


def has_area(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell which masks (B, Q, h', w') keep a pixel when resized to `size`; (B, Q) bool."""
    resized = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    return (resized > 0).flatten(2).any(-1)


@torch.no_grad()
def _binary_masks(mask_logits: Tensor, features: Tensor) -> Tensor:
    size = features.shape[-2:]
    if mask_logits.shape[-2:] != size:
        mask_logits = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    return (mask_logits > 0).to(features.dtype)


def classify(embeddings: Tensor, text: Tensor, logit_scale: Tensor, rows: Tensor) -> Tensor:
    """Scaled similarity with every class, the best synonym of each, and with void.

    Only `embeddings` are normalised. Text rows are unit vectors for the head but have a norm of
    about sqrt(D) after content-dependent transfer; released weights depend on that. Such logits
    reach 900, where half precision would be off by whole units: they are float32 whatever the rest.

    Args:
        embeddings: (B, Q, D).
        text: (S + 1, D), or (B, S + 1, D) per image; class by class, the void row last.
        logit_scale: scalar, natural logarithm of the scale, which is cut at 100.
        rows: (K, n) int64, the rows of `text` that belong to each class (`TextEmbeddings.rows`).

    Returns:
        (B, Q, K + 1) logits. The gradient of a class goes to its winning synonym alone.
    """
    scale = logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
    with torch.autocast(embeddings.device.type, enabled=False):
        similarity = scale * (F.normalize(embeddings.float(), dim=-1) @ text.float().mT)
    return best_synonyms(similarity, rows)


def best_synonyms(logits: Tensor, rows: Tensor) -> Tensor:
    """Reduce (..., S + 1) to (..., K + 1): the largest logit of each class, then void."""
    return torch.cat([best_rows(logits, rows), logits[..., -1:]], dim=-1)


def best_rows(logits: Tensor, rows: Tensor) -> Tensor:
    """Reduce (..., S) to (..., K): the largest logit of each class."""
    winners = rows[:, 0] + logits.detach()[..., rows].argmax(-1)  # (..., K), the first of equals
    return logits.gather(-1, winners)


def class_scores(head_logits: Tensor, clip_logits: Tensor, *, trust_weight: float = 0.0) -> Tensor:
    """MAFT+: CLIP's class probabilities times the head's probability of an object.

    Args:
        head_logits: (B, Q, K + 1); only the probability of void is used.
        clip_logits: (B, Q, K + 1); the void column is not used.
        trust_weight: COAT's, see `with_void`.

    Returns:
        (B, Q, K + 1) log scores; softmax of them gives the probabilities.
    """
    probabilities = clip_logits[..., :-1].softmax(-1)
    return with_void(probabilities, head_logits, probabilities, trust_weight)


def geometric_ensemble(
    head_logits: Tensor,
    clip_logits: Tensor,
    seen: Tensor,
    *,
    alpha: float,
    beta: float,
    valid: Tensor | None = None,
    trust_weight: float = 0.0,
    floored: bool = False,
) -> Tensor:
    """FC-CLIP: weighted geometric mean of the head's and CLIP's class probabilities.

    Computed from log probabilities, so that none of them underflows to a NaN.

    Args:
        head_logits: (B, Q, K + 1).
        clip_logits: (B, Q, K + 1); the void column is not used.
        seen: (K,) bool, classes of the training vocabulary.
        alpha: weight of CLIP for seen classes, in [0, 1].
        beta: weight of CLIP for the other classes, in [0, 1].
        valid: (B, Q) bool; other queries are classified by the head alone. None: all are valid.
        trust_weight: COAT's, see `with_void`.
        floored: add the floor to the mean before it is normalised too, as MaskCLIP++ does.

    Returns:
        (B, Q, K + 1) log scores, as `class_scores`.
    """
    inner = head_logits[..., :-1].log_softmax(-1)
    outer = clip_logits[..., :-1].log_softmax(-1)
    weight = torch.where(seen, alpha, beta).to(inner.dtype)  # (K,)
    mixed = inner * (1 - weight) + outer * weight
    if floored:
        mixed = torch.log(mixed.exp() + SCORE_FLOOR)
    if valid is not None:
        mixed = torch.where(valid[..., None], mixed, inner)
    return with_void(mixed.softmax(-1), head_logits, outer.exp(), trust_weight)


def with_void(
    probabilities: Tensor, head_logits: Tensor, clip: Tensor, trust_weight: float = 0.0
) -> Tensor:
    """Share out between the classes and void, whose v becomes v (1 - trust_weight * max clip).

    COAT (OVRCOAT, CVPR 2026): the head takes objects of new classes for background; where CLIP is
    confident of a class, void is believed less. With a `trust_weight` of 0 it is the head's v.

    Args:
        probabilities: (B, Q, K), of the classes.
        head_logits: (B, Q, K + 1); only the probability of void is used.
        clip: (B, Q, K), CLIP's own probabilities.
        trust_weight: in [0, 1].

    Returns:
        (B, Q, K + 1) log scores.
    """
    void = head_logits.softmax(-1)[..., -1:]
    if trust_weight:
        void = void * (1 - trust_weight * clip.amax(-1, keepdim=True))
    return torch.log(torch.cat([probabilities * (1 - void), void], dim=-1) + SCORE_FLOOR)
