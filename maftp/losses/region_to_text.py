"""OVR: cross-entropy of CLIP's class probabilities at the matched queries (OVRCOAT, CVPR 2026).

It reaches CLIP alone: masks are cut to binary ones before CLIP's features are pooled under them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from maftp.losses.batch_share import current_share
from maftp.losses.criterion import Pairs


def region_to_text_loss(
    clip_logits: Tensor,
    pairs: Pairs,
    targets: Sequence[Mapping[str, Tensor]],
    *,
    double_softmax: bool,
) -> Tensor:
    """Return the mean cross-entropy over all matched pairs of the batch, unweighted.

    Args:
        clip_logits: (B, Q, K+1) of the CLIP branch, void last, which is left out; with gradient.
        pairs: matched queries of the final prediction call and the classes of their targets.
        targets: per image "labels" (G,) int64 in [0, K).
        double_softmax: take the probabilities for logits and apply softmax to them once more, as
            the public code does. The loss of a pair then lies between log(1 + (K-1) / e) and
            log(K - 1 + e).

    Returns:
        Scalar; zero, attached to the graph, when nothing is matched.
    """
    queries, labels = pairs
    chosen = clip_logits[..., :-1].flatten(0, 1)[queries].float()
    total = F.cross_entropy(
        chosen.softmax(-1) if double_softmax else chosen, labels, reduction="sum"
    )
    share = current_share(targets)
    rows = share.pair_rows(clip_logits.shape[1])
    count = (rows.before + rows.own + rows.after) / share.parts  # in a part, on average
    return total / (count or 1)
