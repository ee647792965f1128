"""A batch cut into parts: the mean over parts is the loss of the whole, to rounding."""

from __future__ import annotations

import pytest
import torch

from maftp.losses.batch_share import BatchShare, computing, current_share
from maftp.losses.criterion import SetCriterion
from maftp.losses.mask_aware import mask_aware_loss
from maftp.losses.matcher import HungarianMatcher
from tests.losses.predicted import predictions

MASKS = (2, 0, 7, 1, 0, 0, 3, 2)
"""Of eight images; a part may have none, and one image has more masks than queries."""
QUERIES, CLASSES = 5, 4


def criterion() -> SetCriterion:
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}
    return SetCriterion(
        num_classes=CLASSES,
        matcher=HungarianMatcher(**weights, num_points=32),
        **weights,
        no_object_weight=0.1,
        num_points=32,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def whole_batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(8, QUERIES, CLASSES + 1, generator=generator)
    masks = torch.randn(8, QUERIES, 4, 4, generator=generator)
    targets = [
        {
            "labels": torch.randint(CLASSES, (count,), generator=generator),
            "masks": torch.rand(count, 16, 16, generator=generator) > 0.5,
        }
        for count in MASKS
    ]
    return logits, masks, targets


def losses(logits, masks, targets):
    torch.manual_seed(0)  # as the loop does before every pass
    calls = (logits * 0.5, masks * 0.5), (logits, masks)
    ranking = mask_aware_loss(logits, masks, targets)
    return criterion()(predictions(*calls), targets) | {"ranking_loss": ranking}


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_add_up(parts):
    logits, masks, targets = whole_batch()
    together = logits.clone().requires_grad_(), masks.clone().requires_grad_()
    apart = logits.clone().requires_grad_(), masks.clone().requires_grad_()
    expected = losses(*together, targets)
    sum(expected.values()).backward()
    sums = dict.fromkeys(expected, 0.0)
    size = 8 // parts
    for first in range(0, 8, size):
        images = slice(first, first + size)
        with computing(BatchShare(masks=MASKS, first=first, images=size)):
            part = losses(apart[0][images], apart[1][images], targets[images])
        (sum(part.values()) / parts).backward()
        sums = {name: sums[name] + loss.item() / parts for name, loss in part.items()}
    assert sums == pytest.approx({name: loss.item() for name, loss in expected.items()}, rel=1e-5)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_without_a_share_the_batch_is_whole():
    _, _, targets = whole_batch()
    assert current_share(targets) == BatchShare(masks=MASKS, first=0, images=8)
    assert current_share(targets).parts == 1


def test_a_share_of_another_batch_is_refused():
    _, _, targets = whole_batch()
    with computing(BatchShare(masks=(1, 1, 1, 1), first=0, images=2)):
        with pytest.raises(ValueError, match="are not part"):
            current_share(targets[:2])
