"""Set criterion: weights, names, random draws, images and batches without ground truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from maftp.losses.criterion import SetCriterion, count_masks, dice_loss, mask_loss
from maftp.losses.matcher import HungarianMatcher
from tests.losses.predicted import predictions, random_calls

NUM_POINTS = 64


def criterion(num_classes: int = 3) -> SetCriterion:
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}
    return SetCriterion(
        num_classes=num_classes,
        matcher=HungarianMatcher(**weights, num_points=NUM_POINTS),
        **weights,
        no_object_weight=0.1,
        num_points=NUM_POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def halves() -> torch.Tensor:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :, :8] = masks[1, :, 8:] = True
    return masks


def empty_target() -> dict[str, torch.Tensor]:
    return {"labels": torch.zeros(0, dtype=torch.int64), "masks": halves()[:0]}


def test_class_loss_by_hand():
    # Two queries, three classes and void, one target, which query 0 covers perfectly: query 1 is
    # void. Zero logits give query 0 nll ln 4; logits (ln 3, 0, 0, 0) give void nll ln 6 at query 1.
    # Weights 1 and 0.1: (ln 4 + 0.1 ln 6) / 1.1, times the class weight 2.
    masks = torch.full((1, 2, 16, 16), -10.0)
    masks[0, 0, :, :8] = 10.0
    logits = torch.zeros(1, 2, 4)
    logits[0, 1, 0] = math.log(3)
    target = {"labels": torch.tensor([1]), "masks": halves()[:1]}
    losses = criterion()(predictions((logits, masks)), [target])
    expected = 2 * (math.log(4) + 0.1 * math.log(6)) / 1.1
    assert losses["loss_ce"].item() == pytest.approx(expected, rel=1e-6)
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}


def test_undecided_masks_by_hand():
    # A zero logit costs ln 2 whatever the label; weight 5, one pair, one ground-truth mask.
    target = {"labels": torch.tensor([0]), "masks": torch.ones(1, 16, 16, dtype=torch.bool)}
    losses = criterion()(predictions((torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4))), [target])
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(2), rel=1e-6)


def test_mask_and_dice_loss_by_hand():
    # Pair 1: logits 0, labels (1, 0): BCE ln 2; dice 1 - (2*0.5+1)/(1+1+1) = 1/3.
    # Pair 2: logits ln 3 (sigma 3/4), labels (1, 1): BCE ln(4/3); dice 1 - (3+1)/(1.5+2+1) = 1/9.
    # Sums over pairs, divided by num = 4.
    logits = torch.tensor([[0.0, 0.0], [math.log(3)] * 2])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    num = 4.0
    expected = (math.log(2) + math.log(4 / 3)) / 4
    assert mask_loss(logits, labels, num).item() == pytest.approx(expected, rel=1e-6)
    assert dice_loss(logits, labels, num).item() == pytest.approx((1 / 3 + 1 / 9) / 4, rel=1e-6)


def test_perfect_prediction_costs_nothing(monkeypatch):
    # Points at pixel centres of 16x16 masks: between the halves any prediction is undecided.
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *s, **o: ((rand(*s) * 16).floor() + 0.5) / 16)
    masks = halves()[None].float() * 200 - 100
    logits = torch.full((1, 2, 4), -50.0)
    logits[0, 0, 2] = logits[0, 1, 0] = 50.0
    target = {"labels": torch.tensor([2, 0]), "masks": halves()}
    losses = criterion()(predictions((logits, masks)), [target])
    for loss in losses.values():
        assert loss.item() == pytest.approx(0, abs=1e-6)


def test_constants():
    assert torch.equal(criterion().empty_weight, torch.tensor([1.0, 1.0, 1.0, 0.1]))
    assert list(criterion().state_dict()) == ["empty_weight"]


def test_order_and_shapes_of_random_draws(monkeypatch):
    # Every call: matching image by image, then the candidates and the free points of the mask loss.
    shapes = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *s, **o: shapes.append(s) or rand(*s, **o))
    targets = [
        {"labels": torch.tensor([0, 1]), "masks": halves()},
        {"labels": torch.tensor([2]), "masks": halves()[:1]},
    ]
    criterion()(predictions(*random_calls(3, batch=2, queries=5)), targets)
    one_call = [(1, 64, 2), (1, 64, 2), (3, 192, 2), (3, 16, 2)]
    assert shapes == one_call * 3


def test_names_of_deep_supervision():
    target = {"labels": torch.tensor([0]), "masks": halves()[:1]}
    losses = criterion()(predictions(*random_calls(10)), [target])
    expected = {f"loss_{kind}" for kind in ("ce", "mask", "dice")}
    expected |= {f"{name}_{index}" for name in set(expected) for index in range(9)}
    assert set(losses) == expected


def test_every_call_has_the_losses_it_would_have_alone(monkeypatch):
    # Three calls of two images, one with more masks than queries, at the same points in every call.
    rand = torch.rand

    def by_shape(*shape: int, **options: Any) -> torch.Tensor:
        return rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    monkeypatch.setattr(torch, "rand", by_shape)
    many = torch.rand(5, 16, 16) > 0.5
    targets = [
        {"labels": torch.tensor([2]), "masks": halves()[:1]},
        {"labels": torch.tensor([0, 1, 2, 1, 0]), "masks": many},
    ]
    calls = random_calls(3, batch=2, queries=3)
    together = criterion()(predictions(*calls), targets)
    for suffix, call in zip(("_0", "_1", ""), calls, strict=True):
        for name, loss in criterion()(predictions(call), targets).items():
            torch.testing.assert_close(together[name + suffix], loss)
    sum(together.values()).backward()
    assert all(logits.grad.any() and masks.grad.any() for logits, masks in calls)


def test_batch_without_ground_truth_keeps_the_graph():
    calls = random_calls(2, batch=2)
    losses = criterion()(predictions(*calls), [empty_target(), empty_target()])
    for name, loss in losses.items():
        assert loss.item() == 0 or "loss_ce" in name
    sum(losses.values()).backward()
    for logits, masks in calls:
        assert torch.equal(masks.grad, torch.zeros_like(masks))
        assert logits.grad.abs().sum() > 0


def test_empty_image_beside_a_full_one():
    [(logits, masks)] = calls = random_calls(1, batch=2)
    target = {"labels": torch.tensor([1]), "masks": halves()[:1]}
    losses = criterion()(predictions(*calls), [empty_target(), target])
    assert all(loss.isfinite() for loss in losses.values())
    losses["loss_mask"].backward()
    assert masks.grad[0].abs().sum() == 0
    assert masks.grad[1].abs().sum() > 0


def test_target_emptied_by_cropping_is_matched():
    target = {"labels": torch.tensor([1]), "masks": torch.zeros(1, 16, 16, dtype=torch.bool)}
    losses = criterion()(predictions((torch.zeros(1, 1, 4), torch.zeros(1, 1, 4, 4))), [target])
    # sigma = 1/2 at 64 points against nothing: dice 1 - 1 / (32 + 1); BCE ln 2.
    assert losses["loss_dice"].item() == pytest.approx(5 * (1 - 1 / 33), rel=1e-5)
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(2), rel=1e-6)


def test_permuting_queries_changes_nothing(monkeypatch):
    rand = torch.rand

    def by_shape(*shape: int, **options: Any) -> torch.Tensor:
        return rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    monkeypatch.setattr(torch, "rand", by_shape)
    target = {"labels": torch.tensor([1]), "masks": halves()[:1]}
    [call] = random_calls(1, queries=6)
    order = torch.randperm(6)
    permuted = tuple(tensor[:, order] for tensor in call)
    first = criterion()(predictions(call), [target])
    second = criterion()(predictions(permuted), [target])
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def test_counts_at_least_one_mask():
    assert count_masks([empty_target()]) == 1
    assert count_masks([{"labels": torch.zeros(3)}]) == 3
