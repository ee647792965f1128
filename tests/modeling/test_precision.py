"""Products and convolutions have one precision."""

from __future__ import annotations

import pytest
import torch

from maftp.modeling.precision import allow_tf32


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_before():
    products, convolutions = flags()
    yield
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.mark.parametrize("allowed", [True, False])
def test_both_follow(allowed):
    allow_tf32(allowed)
    assert flags() == (allowed, allowed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_single_precision_is_that_of_a_cpu():
    allow_tf32(False)
    a, b = torch.randn(2, 256, 256)
    difference = ((a.cuda() @ b.cuda()).cpu() - a @ b).abs().max() / (a @ b).abs().max()
    assert difference < 1e-5
