import math

import pytest
import torch

from maftp.losses.balanced_masks import balanced_mask_loss, mask_weights
from maftp.losses.batch_share import BatchShare

LABELS = [torch.tensor([2, 2, 0]), torch.tensor([], dtype=torch.long), torch.tensor([1])]
WHOLE = BatchShare(masks=(3, 0, 1), first=0, images=3)


def logits() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(labels), 3, generator=generator) for labels in LABELS]


def test_classes_of_an_image_and_masks_of_a_class_weigh_alike():
    # two classes: 1/2 each; class 2 has two masks
    assert mask_weights(LABELS[0]).tolist() == [0.25, 0.25, 0.5]


def test_images_with_masks_weigh_alike():
    values = logits()
    weights = [[0.25, 0.25, 0.5], [], [1.0]]
    expected = 0.0
    for image, labels, shares in zip(values, LABELS, weights, strict=True):
        for row, label, share in zip(image, labels.tolist(), shares, strict=True):
            expected -= share / 2 * math.log(row.exp()[label] / row.exp().sum())
    assert balanced_mask_loss(values, LABELS, WHOLE).item() == pytest.approx(expected, rel=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole():
    values = logits()
    whole = balanced_mask_loss(values, LABELS, WHOLE)
    parts = []
    for index in range(3):
        share = BatchShare(masks=(3, 0, 1), first=index, images=1)
        parts.append(balanced_mask_loss([values[index]], [LABELS[index]], share))
    assert (sum(parts) / 3).item() == pytest.approx(whole.item(), rel=1e-6)


def test_no_mask_at_all_is_zero_and_has_a_gradient():
    weight = torch.ones(3, requires_grad=True)
    loss = balanced_mask_loss(
        [torch.zeros(0, 3) * weight], [LABELS[1]], BatchShare(masks=(0,), first=0, images=1)
    )
    loss.backward()
    assert loss.item() == 0 and weight.grad.tolist() == [0, 0, 0]
