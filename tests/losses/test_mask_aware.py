"""Mask-aware loss: hand-derived ranks, and equality with the form that resizes every prediction."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from maftp.losses.mask_aware import mask_aware_loss, min_max, soft_iou


def plain_iou(mask_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The definition: resize the probabilities to the targets' size, then sum pixels; in double."""
    size = targets.shape[-2:]
    masks = mask_logits.double().sigmoid()[None]
    masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)[0]
    overlap = torch.einsum("qhw,ghw->gq", masks, targets.double())
    union = targets.double().sum((1, 2))[:, None] + masks.sum((1, 2))[None] - overlap
    return overlap / (union + 1e-7)


@pytest.mark.parametrize(
    ("size", "full"),
    [((8, 8), (32, 32)), ((6, 10), (24, 40)), ((5, 7), (19, 31)), ((8, 9), (8, 9))],
)
def test_transposed_resize_equals_the_definition(size, full):
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(10, *size), torch.rand(4, *full) > 0.6
    # Both in double but for the sigmoid and the weights of the resize (float32, rounding 6e-8).
    torch.testing.assert_close(
        soft_iou(logits, targets), plain_iou(logits, targets), rtol=3e-6, atol=1e-9
    )
    torch.testing.assert_close(
        min_max(soft_iou(logits, targets)), min_max(plain_iou(logits, targets)), rtol=0, atol=3e-5
    )


def test_loss_by_hand():
    # 1x1 canvas fully covered by one target of class 0; the two masks have probability 3/4 and 1/4.
    # IoU_q = m / (1 + m - m) = 3/4 and 1/4, so r = (1, 0). Logits (ln 3, 0, void) give class 0
    # probability 3/4 for both: errors -1/4 and 3/4, loss (1/32 + 9/32) / 2.
    masks = torch.tensor([math.log(3), -math.log(3)]).reshape(1, 2, 1, 1)
    logits = torch.tensor([[[math.log(3), 0.0, 7.0]] * 2])
    target = {"labels": torch.tensor([0]), "masks": torch.ones(1, 1, 1, dtype=torch.bool)}
    loss = mask_aware_loss(logits, masks, [target])
    assert loss.item() == pytest.approx(10 / 32 / 2, rel=1e-5)


def test_best_query_ranks_one_and_worst_zero():
    target = torch.zeros(1, 16, 16, dtype=torch.bool)
    target[:, :, :8] = True
    best = torch.full((4, 4), -20.0)
    best[:, :2] = 20.0
    rank = min_max(soft_iou(torch.stack([best, torch.zeros(4, 4), -best]), target))[0]
    assert rank[0].item() == pytest.approx(1)
    assert 0 < rank[1].item() < 1
    assert rank[2].item() == 0


def test_equal_queries_rank_zero():
    target = torch.rand(2, 16, 16) > 0.5
    assert torch.equal(
        min_max(soft_iou(torch.zeros(3, 4, 4), target)), torch.zeros(2, 3, dtype=torch.float64)
    )


def test_emptied_target_ranks_zero():
    target = torch.zeros(1, 16, 16, dtype=torch.bool)
    rank = min_max(soft_iou(torch.randn(3, 4, 4), target))
    assert torch.equal(rank, torch.zeros(1, 3, dtype=torch.float64))


def test_gradient_reaches_the_classes_only():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    masks = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = {"labels": torch.tensor([1, 3]), "masks": torch.rand(2, 16, 16) > 0.5}
    mask_aware_loss(logits, masks, [target]).backward()
    assert masks.grad is None
    assert torch.equal(logits.grad[..., -1], torch.zeros(1, 3))  # the void column takes no part
    assert logits.grad[..., :-1].abs().min() > 0


def test_mean_runs_over_all_masks_and_queries():
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 3, 5), torch.randn(2, 3, 4, 4)
    one = {"labels": torch.tensor([1]), "masks": torch.rand(1, 16, 16) > 0.5}
    two = {"labels": torch.tensor([0, 2]), "masks": torch.rand(2, 16, 16) > 0.5}
    first = mask_aware_loss(logits[:1], masks[:1], [one])
    second = mask_aware_loss(logits[1:], masks[1:], [two])
    torch.testing.assert_close(mask_aware_loss(logits, masks, [one, two]), (first + 2 * second) / 3)


def test_no_ground_truth_gives_a_zero_with_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    empty = {"labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 16, 16)}
    loss = mask_aware_loss(logits, torch.randn(2, 3, 4, 4), [empty, empty])
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
