"""The trunk gives timm's numbers and gradients, with stochastic depth and without."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXtBlock

from maftp.modeling.convnext import ScaledResidualBlock, adopt, cast_at_once


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


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_cast_at_once_change_no_bit(frozen):
    torch.manual_seed(0)
    trunk = timm.create_model("test_convnext", num_classes=0)
    adopt(trunk)
    trunk.stages[0].requires_grad_(not frozen)
    found = []
    for at_once in (False, True):
        trunk.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.profiler.profile() as profiler:
            with cast_at_once(trunk, "cpu") if at_once else nullcontext():
                output = trunk.forward_features(torch.ones(2, 3, 64, 96))
        output.float().square().mean().backward()
        grads = {name: p.grad for name, p in trunk.named_parameters() if p.grad is not None}
        casts = sum(event.name == "aten::_to_copy" for event in profiler.events())
        found.append((output, grads, casts))
    (output, grads, casts), (same, same_grads, fewer) = found
    assert torch.equal(output, same) and output.dtype == same.dtype
    assert grads.keys() == same_grads.keys()
    assert all(torch.equal(grads[name], same_grads[name]) for name in grads)
    blocks = sum(isinstance(module, ScaledResidualBlock) for module in trunk.modules())
    assert fewer == casts - 6 * blocks
    assert all(
        m.cast_weights is None for m in trunk.modules() if isinstance(m, ScaledResidualBlock)
    )


def test_without_autocast_nothing_is_cast():
    trunk = timm.create_model("test_convnext", num_classes=0)
    adopt(trunk)
    block = next(m for m in trunk.modules() if isinstance(m, ScaledResidualBlock))
    with cast_at_once(trunk, "cpu"):
        assert block.cast_weights is None
    trunk.set_grad_checkpointing(True)
    with torch.autocast("cpu", dtype=torch.bfloat16), cast_at_once(trunk, "cpu"):
        assert block.cast_weights is None
