import math

import pytest
import torch

from maftp.losses.mask_consistency import consistency_loss, slot_classification_loss


def test_filled_slots_do_not_count():
    logits = torch.tensor([[[1.0, 0.0, 0.0], [5.0, 5.0, 5.0]], [[0.0, 0.0, 2.0], [0.0, 3.0, 0.0]]])
    labels = torch.tensor([[0, -1], [1, -1]])
    first = math.log(math.e + 2) - 1
    second = math.log(2 + math.exp(2))  # void is a class that is never right
    found = slot_classification_loss(logits, labels)
    assert found.item() == pytest.approx((first + second) / 2)


def test_no_mask_at_all_is_zero_and_has_a_gradient():
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = slot_classification_loss(logits, torch.full((1, 2), -1))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("detach", [True, False])
def test_one_minus_the_mean_cosine(detach):
    predicted = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], requires_grad=True)
    truth = torch.tensor([[[3.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    loss = consistency_loss(predicted, truth, detach_truth=detach)
    assert loss.item() == pytest.approx(1 - (1 + 0) / 2)
    loss.backward()
    assert predicted.grad is not None and (truth.grad is None) == detach
