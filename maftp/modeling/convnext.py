"""Blocks of timm's ConvNeXt with one pass over the maps less, and few casts of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

_CAST_TOGETHER = 9
"""Blocks whose weights are cast by one operator."""


class ScaledResidualBlock(ConvNeXtBlock):
    """timm's block with layer scale and residual in one operator; made by `adopt`."""

    cast_weights: tuple[Tensor, ...] | None = None
    """Weight and bias of the convolution and of both linear layers while `cast_at_once` holds."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block on maps (B, C, h, w)."""
        if not isinstance(self.drop_path, nn.Identity) and self.training:
            return super().forward(x)
        branch = self._branch(x)
        residual = self.shortcut(x).permute(0, 2, 3, 1)
        add = _AddScaled.apply if torch.is_grad_enabled() else torch.addcmul
        return add(residual, branch, self.gamma).permute(0, 3, 1, 2)

    def _branch(self, x: Tensor) -> Tensor:
        """Compute what is scaled and added, (B, h, w, C)."""
        if self.cast_weights is None:
            return self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        kernel, shift, widen, bias, narrow, last_bias = self.cast_weights
        maps = self.norm(self.conv_dw._conv_forward(x, kernel, shift).permute(0, 2, 3, 1))
        return F.linear(self.mlp.act(F.linear(maps, widen, bias)), narrow, last_bias)


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


class _Cast(torch.autograd.Function):
    """Casts many tensors by one operator, and their gradients by another."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return _cast(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = iter(_cast([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(there) for grad in grads)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)


@contextmanager
def cast_at_once(trunk: nn.Module, device_type: str) -> Iterator[None]:
    """Cast the weights of many blocks together where autocast would cast each on its own.

    A step of Base has 72 blocks with six of them, and a GPU's host needs longer for a launch than
    the GPU for the cast. Gradients of blocks cast together arrive together; a few blocks at a time
    leave DDP something to exchange while the rest of the backward pass goes on. Blocks that are
    computed anew in the backward pass are left alone: there autocast casts, and both passes must
    do the same.
    """
    blocks = [module for module in trunk.modules() if isinstance(module, ScaledResidualBlock)]
    if not torch.is_autocast_enabled(device_type) or _recomputes(trunk):
        yield
        return
    dtype = torch.get_autocast_dtype(device_type)
    for first in range(0, len(blocks), _CAST_TOGETHER):
        some = blocks[first : first + _CAST_TOGETHER]
        layers = [
            layer for block in some for layer in (block.conv_dw, block.mlp.fc1, block.mlp.fc2)
        ]
        cast = _Cast.apply(
            dtype, *[part for layer in layers for part in (layer.weight, layer.bias)]
        )
        for number, block in enumerate(some):
            block.cast_weights = cast[6 * number : 6 * number + 6]
    try:
        yield
    finally:
        for block in blocks:
            block.cast_weights = None


def _recomputes(trunk: nn.Module) -> bool:
    return any(getattr(stage, "grad_checkpointing", False) for stage in trunk.modules())


def adopt(trunk: nn.Module) -> None:
    """Let the blocks of a ConvNeXt of timm compute as above; their weights stay where they are."""
    for module in trunk.modules():
        if type(module) is ConvNeXtBlock and _is_usual(module):
            module.__class__ = ScaledResidualBlock


def _is_usual(block: ConvNeXtBlock) -> bool:
    """Return whether a block has layer scale, linear layers, and a bias everywhere."""
    biased = block.conv_dw.bias is not None and block.mlp.fc1.bias is not None
    return block.gamma is not None and not block.use_conv_mlp and biased
