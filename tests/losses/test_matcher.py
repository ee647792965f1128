"""Costs and assignment of queries to targets."""

from __future__ import annotations

import math

import pytest
import torch

from maftp.losses.batch_share import BatchShare
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


def test_costs_of_several_calls_are_those_of_each():
    logits, labels = torch.randn(3, 4, 8), torch.rand(3, 2, 8)
    for cost in (pairwise_mask_cost, pairwise_dice_cost):
        alone = [cost(logits[call], labels[call]) for call in range(3)]
        torch.testing.assert_close(cost(logits, labels), torch.stack(alone))


def match(
    logits: torch.Tensor, masks: torch.Tensor, targets: list[dict[str, torch.Tensor]]
) -> list[list[tuple[list[int], list[int]]]]:
    """Match at random points; return per call and image the queries and their targets."""
    found = matcher()(logits, masks, targets, torch.rand(*masks.shape[:2], 64, 2))
    calls, queries = masks.shape[1:3]
    before = torch.tensor([len(target["labels"]) for target in targets]).cumsum(0).tolist()
    pairs = []
    for call in range(calls):
        images = zip(
            found.queries[call].split(found.counts),
            found.targets[call].split(found.counts),
            range(len(targets)),
            [0, *before[:-1]],
            strict=True,
        )
        pairs.append(
            [
                ((q - (image * calls + call) * queries).tolist(), (g - first).tolist())
                for q, g, image, first in images
            ]
        )
    return pairs


def test_perfect_masks_find_their_targets():
    masks = halves()
    order, other = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    predicted = torch.stack([masks[order], masks[other]])[None].float() * 20 - 10
    target = {"labels": torch.tensor([0, 1, 2]), "masks": masks}
    first, second = match(torch.zeros(1, 2, 3, 4), predicted, [target])
    assert first == [([0, 1, 2], order.tolist())]
    assert second == [([0, 1, 2], other.tolist())]


def test_class_decides_between_equal_masks():
    masks = halves()[:1].repeat(2, 1, 1)
    logits = torch.zeros(1, 1, 2, 3)
    logits[..., 0, 1] = logits[..., 1, 0] = 5.0
    target = {"labels": torch.tensor([0, 1]), "masks": masks}
    assert match(logits, torch.zeros(1, 1, 2, 4, 4), [target]) == [[([0, 1], [1, 0])]]


@pytest.mark.parametrize("num_targets", [0, 1, 3])
def test_smaller_side_limits_the_pairs(num_targets):
    target = {"labels": torch.arange(num_targets), "masks": halves()[:num_targets]}
    logits, masks = torch.randn(1, 4, 2, 5), torch.randn(1, 4, 2, 4, 4)
    found = matcher()(logits, masks, [target], torch.rand(1, 4, 64, 2))
    assert found.counts == (min(2, num_targets),)
    assert found.queries.shape == found.targets.shape == (4, min(2, num_targets))
    assert found.queries.dtype == found.targets.dtype == torch.int64


def test_images_keep_their_places():
    # The first image has no target, the other two have one and two, in the order of their masks.
    masks = halves()
    empty = {"labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    targets = [
        empty,
        {"labels": torch.tensor([3]), "masks": masks[1:2]},
        {"labels": torch.tensor([0, 1]), "masks": masks[[2, 0]]},
    ]
    predicted = (masks.float() * 20 - 10).expand(3, 2, 3, 16, 16)
    expected = [([], []), ([1], [0]), ([0, 2], [1, 0])]
    assert match(torch.zeros(3, 2, 3, 5), predicted, targets) == [expected, expected]


def test_one_draw_per_image_shared_by_its_masks(monkeypatch):
    shapes = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *s, **o: shapes.append(s) or rand(*s, **o))
    share = BatchShare(masks=(3, 0), first=0, images=2)
    drawn = matcher().draw_points(share, device=torch.device("cpu"))
    assert shapes == [(1, 64, 2), (1, 64, 2)] == [tuple(points.shape) for points in drawn]


def test_nan_predictions_still_give_pairs():
    target = {"labels": torch.tensor([0]), "masks": halves()[:1]}
    nan = torch.full((1, 1, 2, 4), torch.nan), torch.full((1, 1, 2, 4, 4), torch.nan)
    [[(queries, _)]] = match(*nan, [target])
    assert len(queries) == 1
