"""Costs and assignment of queries to targets."""

from __future__ import annotations

import math

import pytest
import torch

from maftp.losses.matcher import HungarianMatcher, pairwise_dice_cost, pairwise_mask_cost


def matcher(**weights: float) -> HungarianMatcher:
    values = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0} | weights
    return HungarianMatcher(**values, num_points=64)


def halves() -> torch.Tensor:
    """Left half, right half, upper half of a 16x16 canvas."""
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :, :8] = masks[1, :, 8:] = masks[2, :8] = True
    return masks


def test_mask_cost_by_hand():
    # x = 0 gives ln 2 whatever the label. x = ln 3 has softplus(-x) = ln(4/3), softplus(x) = ln 4;
    # labels (1, 0) at x = (ln 3, ln 3): mean of ln(4/3) and ln 4.
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = torch.tensor(
        [
            [math.log(2), math.log(2)],
            [(math.log(4 / 3) + math.log(4)) / 2, math.log(4 / 3)],
        ]
    )
    torch.testing.assert_close(pairwise_mask_cost(logits, labels), expected)


def test_dice_cost_by_hand():
    # sigmoid(0) = 1/2 at two points, labels (1, 0): 1 - (2 * 0.5 + 1) / (1 + 1 + 1) = 1/3;
    # labels (0, 0): 1 - (0 + 1) / (1 + 0 + 1) = 1/2.
    cost = pairwise_dice_cost(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(cost, torch.tensor([[1 / 3, 1 / 2]]))


def test_perfect_masks_find_their_targets():
    masks = halves()
    order = torch.tensor([2, 0, 1])
    outputs = {
        "pred_logits": torch.zeros(1, 3, 4),
        "pred_masks": (masks[order].float() * 20 - 10)[None],
    }
    queries, targets = matcher()(outputs, [{"labels": torch.tensor([0, 1, 2]), "masks": masks}])[0]
    assert queries.tolist() == [0, 1, 2]
    assert targets.tolist() == order.tolist()


def test_class_decides_between_equal_masks():
    masks = halves()[:1].repeat(2, 1, 1)
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 1] = logits[0, 1, 0] = 5.0
    outputs = {"pred_logits": logits, "pred_masks": torch.zeros(1, 2, 4, 4)}
    [(queries, targets)] = matcher()(outputs, [{"labels": torch.tensor([0, 1]), "masks": masks}])
    assert (queries.tolist(), targets.tolist()) == ([0, 1], [1, 0])


@pytest.mark.parametrize("num_targets", [0, 1, 3])
def test_smaller_side_limits_the_pairs(num_targets):
    outputs = {"pred_logits": torch.randn(1, 2, 5), "pred_masks": torch.randn(1, 2, 4, 4)}
    target = {"labels": torch.arange(num_targets), "masks": halves()[:num_targets]}
    [(queries, targets)] = matcher()(outputs, [target])
    assert len(queries) == len(targets) == min(2, num_targets)
    assert queries.dtype == targets.dtype == torch.int64


def test_one_draw_per_image_shared_by_its_masks(monkeypatch):
    shapes = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *s, **o: shapes.append(s) or rand(*s, **o))
    outputs = {"pred_logits": torch.randn(2, 4, 5), "pred_masks": torch.randn(2, 4, 4, 4)}
    empty = {"labels": torch.zeros(0, dtype=torch.int64), "masks": halves()[:0]}
    matcher()(outputs, [{"labels": torch.arange(3), "masks": halves()}, empty])
    assert shapes == [(1, 64, 2), (1, 64, 2)]


def test_nan_predictions_still_give_pairs():
    outputs = {
        "pred_logits": torch.full((1, 2, 4), torch.nan),
        "pred_masks": torch.full((1, 2, 4, 4), torch.nan),
    }
    [(queries, _)] = matcher()(outputs, [{"labels": torch.tensor([0]), "masks": halves()[:1]}])
    assert len(queries) == 1
