import math

import pytest
import torch

from maftp.losses.batch_share import BatchShare, computing
from maftp.losses.region_to_text import region_to_text_loss

TARGETS = [{"labels": torch.tensor([1, 0])}, {"labels": torch.tensor([2])}]
PAIRS = (torch.tensor([0, 2, 4]), torch.tensor([0, 1, 2]))
"""Of three queries an image: 0 is class 0 and 2 class 1 in one, 1 is class 2 in the other."""
PARTS = [
    (torch.tensor([0, 2]), torch.tensor([0, 1])),
    (torch.tensor([1]), torch.tensor([2])),
]
"""The same, an image a part."""


def logits() -> torch.Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("double", [True, False])
def test_mean_over_the_matched_pairs_of_the_batch(double):
    values = logits()
    expected = 0.0
    for image, query, label in ((0, 0, 0), (0, 2, 1), (1, 1, 2)):
        z = values[image, query, :3]  # void is left out
        z = z.softmax(0) if double else z
        expected -= math.log(z.exp()[label] / z.exp().sum()) / 3
    found = region_to_text_loss(values, PAIRS, TARGETS, double_softmax=double)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_bounds_of_the_double_softmax():
    """A sure CLIP: its probabilities are 0 and 1."""
    sure = torch.full((2, 3, 4), -100.0)
    sure[0, 0, 0] = sure[0, 2, 1] = sure[1, 1, 2] = 100.0
    found = region_to_text_loss(sure, PAIRS, TARGETS, double_softmax=True)
    assert found.item() == pytest.approx(math.log(1 + 2 / math.e))
    assert region_to_text_loss(sure, PAIRS, TARGETS, double_softmax=False).item() == 0


def test_parts_of_a_batch_add_up_to_the_whole():
    whole = region_to_text_loss(logits(), PAIRS, TARGETS, double_softmax=True)
    parts = []
    for index in range(2):
        with computing(BatchShare(masks=(2, 1), first=index, images=1)):
            part = slice(index, index + 1)
            values = (logits()[part], PARTS[index], TARGETS[part])
            parts.append(region_to_text_loss(*values, double_softmax=True))
    assert (sum(parts) / 2).item() == pytest.approx(whole.item(), rel=1e-6)


def test_nothing_matched_is_zero_and_has_a_gradient():
    values = logits().requires_grad_()
    nothing = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    loss = region_to_text_loss(values, nothing, TARGETS, double_softmax=True)
    loss.backward()
    assert loss.item() == 0 and values.grad.abs().max() == 0
