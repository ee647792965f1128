"""Multi-scale deformable attention (Deformable DETR, eq. 3): weighted bilinear samples of maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum weighted bilinear samples of the values over all levels and points.

    A location (x, y) on a level of h rows and w columns reads the map at column x * w - 0.5 and row
    y * h - 0.5. Each of the four neighbours that lies outside the map counts as zero.

    Args:
        value: (B, N, M, C), the flattened levels one after another, N = sum of h * w.
        shapes: (h, w) of each of the L levels.
        locations: (B, Q, M, L, P, 2), x before y, in units of the level's width and height.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * C), head by head.

    Raises:
        ValueError: the levels do not add up to N, or their number is not L.
    """
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    if sum(h * w for h, w in shapes) != tokens or len(shapes) != locations.shape[3]:
        raise ValueError(
            f"levels {list(shapes)} do not match {tokens} value tokens and "
            f"{locations.shape[3]} levels of locations"
        )
    grids = 2 * locations - 1  # grid_sample counts from -1 to 1
    output = value.new_zeros(batch * heads, channels, queries)
    start = 0
    for level, (height, width) in enumerate(shapes):
        stop = start + height * width
        image = value[:, start:stop].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*M, Q, P, 2)
        samples = F.grid_sample(
            image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )  # (B*M, C, Q, P)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*M, Q, P)
        output = output + (samples * weight.unsqueeze(1)).sum(-1)
        start = stop
    output = output.view(batch, heads, channels, queries)
    return output.permute(0, 3, 1, 2).flatten(2)  # (B, Q, M*C)
