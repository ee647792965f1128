"""Blocks of timm's ConvNeXt with one pass over the maps less."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn


class ScaledResidualBlock(ConvNeXtBlock):
    """timm's block with layer scale and residual in one operator; made by `adopt`."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block on maps (B, C, h, w)."""
        dropped = not isinstance(self.drop_path, nn.Identity) and self.training
        if dropped or self.use_conv_mlp or self.gamma is None:
            return super().forward(x)
        branch = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))  # (B, h, w, C)
        residual = self.shortcut(x).permute(0, 2, 3, 1)
        add = _AddScaled.apply if torch.is_grad_enabled() else torch.addcmul
        return add(residual, branch, self.gamma).permute(0, 3, 1, 2)


class _AddScaled(torch.autograd.Function):
    """`torch.addcmul`, whose own gradients multiply by one along the way."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(branch, scale)
        return torch.addcmul(residual, branch, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        branch, scale = ctx.saved_tensors
        grad, needed = grads[0], ctx.needs_input_grad
        by_branch = grad * scale if needed[1] else None
        by_scale = (grad * branch).flatten(0, -2).sum(0) if needed[2] else None
        return grad, by_branch, by_scale


def adopt(trunk: nn.Module) -> None:
    """Let the blocks of a ConvNeXt of timm compute as above; their weights stay where they are."""
    for module in trunk.modules():
        if type(module) is ConvNeXtBlock:
            module.__class__ = ScaledResidualBlock
