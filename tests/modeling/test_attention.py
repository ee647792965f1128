"""Attention gives the numbers of PyTorch's module, masked or not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import MultiheadAttention

from maftp.modeling.attention import Attention


@pytest.fixture
def attention():
    torch.manual_seed(0)
    attention = Attention(32, 4)
    torch.nn.init.normal_(attention.in_proj_bias)
    return attention


def test_masked_attention_is_that_of_pytorch(attention):
    query, key, value = (torch.randn(2, count, 32) for count in (5, 12, 12))
    bias = torch.randn(2, 1, 5, 12).masked_fill(torch.rand(2, 1, 5, 12) > 0.5, -torch.inf)
    expected, _ = MultiheadAttention.forward(
        attention, query, key, value, attn_mask=bias[:, 0].repeat_interleave(4, dim=0)
    )
    torch.testing.assert_close(attention(query, key, value, bias=bias), expected)


def test_queries_and_keys_are_projected_together(attention):
    query, value = torch.randn(2, 5, 32, requires_grad=True), torch.randn(2, 5, 32)
    expected, _ = MultiheadAttention.forward(attention, query, query, value)
    torch.testing.assert_close(attention(query, query, value), expected)
    expected.square().sum().backward()
    gradient, query.grad = query.grad, None
    attention(query, query, value).square().sum().backward()
    torch.testing.assert_close(query.grad, gradient)


def test_keeps_the_names_of_released_weights(attention):
    names = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    assert set(attention.state_dict()) == names
    assert not attention.out_proj.bias.any()
