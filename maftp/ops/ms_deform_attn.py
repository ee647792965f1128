"""Multi-scale deformable attention (Deformable DETR, eq. 3): weighted bilinear samples of maps.

One `torch.library` operator, `maftp::ms_deform_attn`, with gradients, a fake implementation for
`torch.compile` and an autocast rule; `maftp.ops.backends` chooses what computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maftp.ops import deformops_backend, grid_sample, native
from maftp.ops.backends import choose

_OPERATOR = "maftp::ms_deform_attn"
_BACKWARD = "maftp::ms_deform_attn_backward"
_DEVICES = ("cpu", "cuda")


def ms_deform_attn(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples of the values over all levels and points.

    A location (x, y) on a level of h rows and w columns reads the map at column x * w - 0.5 and row
    y * h - 0.5. Each of the four neighbours that lies outside the map counts as zero. A level may
    be empty. Sums and locations are float32 for half-precision values (float64 for float64); under
    autocast everything is float32, since half precision cannot tell the pixels of a wide map apart.

    Args:
        value: (B, N, M, C), the flattened levels one after another, N = sum of h * w.
        shapes: (h, w) of each of the L levels.
        locations: (B, Q, M, L, P, 2), x before y, in units of the level's width and height.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * C), head by head, of the type of `value`.

    Raises:
        ValueError: the shapes of the arguments do not fit each other.
        OperatorError: the backend named in the environment cannot be used.
    """
    _check(value, shapes, locations, weights)
    backend = choose(value.device.type, value.dtype)
    if backend == "deformops":
        return deformops_backend.ms_deform_attn(value, shapes, locations, weights)
    flat = [side for shape in shapes for side in shape]
    return torch.ops.maftp.ms_deform_attn(value, flat, locations, weights, backend)


def _check(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> None:
    batch, tokens, heads, _ = value.shape
    if sum(h * w for h, w in shapes) != tokens or len(shapes) != locations.shape[3]:
        raise ValueError(
            f"levels {list(shapes)} do not match {tokens} value tokens and "
            f"{locations.shape[3]} levels of locations"
        )
    if locations.shape[:-1] != weights.shape or locations.shape[-1] != 2:
        raise ValueError(
            f"locations {tuple(locations.shape)} do not match weights {tuple(weights.shape)}"
        )
    if (locations.shape[0], locations.shape[2]) != (batch, heads):
        raise ValueError(
            f"locations {tuple(locations.shape)} do not match value {tuple(value.shape)}"
        )


# `define` and `impl` instead of `custom_op`: a call of the latter imports PyTorch's compiler, which
# takes as long as PyTorch itself.
torch.library.define(
    _OPERATOR,
    "(Tensor value, int[] shapes, Tensor locations, Tensor weights, str backend) -> Tensor",
)
torch.library.define(
    _BACKWARD,
    "(Tensor grad, Tensor value, int[] shapes, Tensor locations, Tensor weights, str backend)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl(_OPERATOR, _DEVICES)
def _forward(
    value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, backend: str
) -> Tensor:
    exact = _exact(value)
    locations, weights = locations.to(exact), weights.to(exact)
    if backend == "torch":
        output = grid_sample.forward(value.to(exact), _pairs(shapes), locations, weights)
    elif backend == "cpu":
        output = native.forward("cpu", value.to(exact), shapes, locations, weights)
    else:
        output = native.forward(backend, value, shapes, locations, weights)
    return output.to(value.dtype)


@torch.library.register_fake(_OPERATOR)
def _(
    value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, backend: str
) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, locations.shape[1], heads * channels)


@torch.library.impl(_BACKWARD, _DEVICES)
def _backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    exact = _exact(value)
    places, shares = locations.to(exact), weights.to(exact)
    if backend == "torch":
        exact_value = value.to(exact)
        parts = grid_sample.backward(grad.to(exact), exact_value, _pairs(shapes), places, shares)
    elif backend == "cpu":
        parts = native.backward("cpu", grad.to(exact), value.to(exact), shapes, places, shares)
    else:
        parts = native.backward(backend, grad, value, shapes, places, shares)
    return parts[0].to(value.dtype), parts[1].to(locations.dtype), parts[2].to(weights.dtype)


@torch.library.register_fake(_BACKWARD)
def _(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        locations.new_empty(locations.shape),
        weights.new_empty(weights.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, shapes, locations, weights, backend = inputs
    ctx.save_for_backward(value, locations, weights)
    ctx.shapes, ctx.backend = shapes, backend


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    by_value, by_locations, by_weights = torch.ops.maftp.ms_deform_attn_backward(
        grad, value, ctx.shapes, locations, weights, ctx.backend
    )
    return by_value, None, by_locations, by_weights, None


torch.library.register_autograd(_OPERATOR, _differentiate, setup_context=_setup_context)
for _device in _DEVICES:
    torch.library.register_autocast(_OPERATOR, _device, torch.float32)


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """Return what stands for the operator in an exported program: PyTorch's own operators."""

    def plain(
        value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor, backend: str
    ) -> Tensor:
        exact = _exact(value)
        parts = (value.to(exact), _pairs(shapes), locations.to(exact), weights.to(exact))
        return grid_sample.forward(*parts).to(value.dtype)

    return {torch.ops.maftp.ms_deform_attn.default: plain}


def _exact(value: Tensor) -> torch.dtype:
    """Return the type of locations, weights and sums."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[0::2], flat[1::2], strict=True))
