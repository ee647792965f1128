"""Deformable attention through PyTorch's `grid_sample`: the form that runs everywhere.

Levels are handled one after another and samples are computed again for the gradients, so that the
samples of a single level, not of all levels and layers, exist at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_BILINEAR, _ZEROS = 0, 0
"""Numbers of these modes in ATen's schema."""


def forward(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum the weighted samples; arguments and result as `maftp.ops.ms_deform_attn`."""
    batch, _, heads, channels = value.shape
    output = value.new_zeros(batch * heads, channels, locations.shape[1])
    weights = _queries_last(weights)  # (B, M, L, P, Q)
    for level, _, image, grid in _levels(value, shapes, locations):
        weight = weights[:, :, level].flatten(0, 1)  # (B*M, P, Q)
        output = output + (_sample(image, grid) * weight.unsqueeze(1)).sum(2)
    output = output.unflatten(0, (batch, heads))
    return output.permute(0, 3, 1, 2).flatten(2).contiguous()  # (B, Q, M*C)


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights from that of the output (B, Q, M*C)."""
    batch, _, heads, channels = value.shape
    grad_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
    weights = _queries_last(weights)  # (B, M, L, P, Q)
    grad_weights = torch.zeros_like(weights)
    grad_grids = weights.new_zeros(*weights.shape[:4], 2, weights.shape[4])  # (B, M, L, P, 2, Q)
    grad = grad.unflatten(2, (heads, channels)).permute(0, 2, 3, 1).flatten(0, 1)  # (B*M, C, Q)
    grad = grad.unsqueeze(2)
    for level, tokens, image, grid in _levels(value, shapes, locations):
        weight = weights[:, :, level].flatten(0, 1)  # (B*M, P, Q)
        by_weight = (_sample(image, grid) * grad).sum(1)  # (B*M, P, Q)
        by_image, by_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * weight.unsqueeze(1),
            image,
            grid,
            _BILINEAR,
            _ZEROS,
            False,
            (True, True),
        )
        by_image = by_image.flatten(2).unflatten(0, (batch, heads))  # (B, M, C, h*w)
        grad_value[:, tokens] = by_image.permute(0, 3, 1, 2)
        grad_weights[:, :, level] = by_weight.unflatten(0, (batch, heads))
        grad_grids[:, :, level] = by_grid.mT.unflatten(0, (batch, heads))
    grad_locations = 2 * grad_grids  # a grid is 2 * locations - 1
    return grad_value, _queries_second(grad_locations), _queries_second(grad_weights)


def _queries_last(samples: Tensor) -> Tensor:
    """Bring (B, Q, M, L, P, ...) to (B, M, L, P, ..., Q): long inner axes are read faster."""
    return samples.flatten(2).transpose(1, 2).contiguous().unflatten(1, samples.shape[2:])


def _queries_second(samples: Tensor) -> Tensor:
    """Undo `_queries_last`."""
    return samples.flatten(1, -2).transpose(1, 2).contiguous().unflatten(2, samples.shape[1:-1])


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    """Read images (n, C, h, w) at (n, P, Q, 2); returns (n, C, P, Q)."""
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor
) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Yield each level that has pixels and samples: its number, tokens, images and grids."""
    start = 0
    grids = _queries_last(2 * locations - 1)  # grid_sample counts from -1 to 1
    for level, (height, width) in enumerate(shapes):
        tokens = slice(start, start + height * width)
        start = tokens.stop
        if height * width == 0 or grids.numel() == 0 or value.shape[-1] == 0:
            continue
        image = value[:, tokens].permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
        yield level, tokens, image, grids[:, :, level].flatten(0, 1).mT  # (B*M, P, Q, 2)
