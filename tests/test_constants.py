"""Constant tensors are kept, except while a program is exported."""

from __future__ import annotations

import torch
from torch import nn

from maftp.modeling.position_encoding import sine_encoding

CPU = torch.device("cpu")


class Positions(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + sine_encoding(3, 5, 8, device=CPU)


def test_equal_sizes_are_one_tensor():
    assert sine_encoding(4, 7, 8, device=CPU) is sine_encoding(4, 7, 8, device=CPU)
    assert sine_encoding(4, 7, 8, device=CPU) is not sine_encoding(7, 4, 8, device=CPU)


def test_what_an_evaluation_made_serves_training():
    with torch.inference_mode():
        kept = sine_encoding(2, 9, 8, device=CPU)
    assert not kept.is_inference()


def test_an_export_leaves_nothing_behind():
    x = torch.zeros(15, 8)
    program = torch.export.export(Positions(), (x,)).module()
    eager = Positions()(x)
    assert type(eager) is torch.Tensor
    assert torch.equal(program(x), eager)
