"""The trunk gives timm's numbers and gradients, with stochastic depth and without."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXtBlock

from maftp.modeling.convnext import ScaledResidualBlock, adopt


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_adopted_blocks_compute_what_they_did(drop):
    torch.manual_seed(0)
    plain = timm.create_model("test_convnext", num_classes=0, drop_path_rate=drop).train()
    for module in plain.modules():
        if isinstance(module, ConvNeXtBlock):
            torch.nn.init.normal_(module.gamma)
    lean = copy.deepcopy(plain)
    adopt(lean)
    kinds = {type(module) for module in lean.modules()}
    assert ScaledResidualBlock in kinds and ConvNeXtBlock not in kinds
    assert lean.state_dict().keys() == plain.state_dict().keys()
    outputs = []
    for trunk in (plain, lean):
        torch.manual_seed(1)
        output = trunk.forward_features(torch.ones(2, 3, 64, 96))
        output.square().mean().backward()
        outputs.append(output)
    torch.testing.assert_close(*outputs)
    assert outputs[0].stride() == outputs[1].stride()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(lean.get_parameter(name).grad, parameter.grad)
