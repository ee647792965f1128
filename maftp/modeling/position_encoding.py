"""Two-dimensional sine position code (DETR's, with coordinates normalised to 2 pi)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maftp.constants import constant

TEMPERATURE = 10000.0
EPSILON = 1e-6


@constant
def sine_encoding(height: int, width: int, channels: int, *, device: torch.device) -> Tensor:
    """Return the position code of every pixel, row by row; the latest few are kept, so read only.

    Rows and columns are counted from one and divided by the map's size, so that the last one is at
    2 pi. The first half of the channels codes the row, the second half the column; even channels of
    a half hold sines and odd ones cosines, in pairs of one frequency.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: length of a code, a multiple of 4.
        device: where to make it.

    Returns:
        (height * width, channels) float32, values in [-1, 1].
    """
    rows = _axis_code(height, channels // 2, device)  # (h, n)
    columns = _axis_code(width, channels // 2, device)  # (w, n)
    code = torch.cat(
        [
            rows[:, None].expand(height, width, -1),
            columns[None].expand(height, width, -1),
        ],
        dim=-1,
    )
    return code.flatten(0, 1)


def _axis_code(length: int, channels: int, device: torch.device) -> Tensor:
    """Code positions 1..length of one axis, (length, channels)."""
    positions = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    angles = 2 * math.pi * positions / (length + EPSILON)
    index = torch.arange(channels, dtype=torch.float32, device=device)
    frequencies = TEMPERATURE ** (-2 * torch.div(index, 2, rounding_mode="floor") / channels)
    phases = angles[:, None] * frequencies  # (length, channels)
    return torch.stack([phases[:, 0::2].sin(), phases[:, 1::2].cos()], dim=2).flatten(1)
