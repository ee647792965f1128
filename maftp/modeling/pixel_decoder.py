"""Pixel decoder of Mask2Former: deformable encoder at strides 32, 16, 8, then up to stride 4."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from maftp.constants import constant
from maftp.modeling.position_encoding import sine_encoding
from maftp.ops import ms_deform_attn

if TYPE_CHECKING:
    from maftp.config import Params

LEVELS = ("res5", "res4", "res3")
"""Encoder levels, coarse to fine: strides 32, 16, 8."""
NORM_GROUPS = 32


class PixelDecoder(nn.Module):
    """Mask features at stride 4 and three memory maps, all of one width, in float32."""

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        hidden_dim: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
        num_points: int,
    ) -> None:
        """Set the widths; `in_channels` gives those of res2..res5."""
        super().__init__()
        self.input_proj = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels[level], hidden_dim, kernel_size=1),
                nn.GroupNorm(NORM_GROUPS, hidden_dim),
            )
            for level in LEVELS
        )
        self.transformer = DeformableTransformer(
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            feedforward_dim=feedforward_dim,
            num_points=num_points,
        )
        self.mask_features = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=1)
        self.adapter_1 = Conv2d(
            in_channels["res2"],
            hidden_dim,
            kernel_size=1,
            bias=False,
            norm=nn.GroupNorm(NORM_GROUPS, hidden_dim),
        )
        self.layer_1 = Conv2d(
            hidden_dim,
            hidden_dim,
            kernel_size=3,
            padding=1,
            bias=False,
            norm=nn.GroupNorm(NORM_GROUPS, hidden_dim),
            activation=F.relu,
        )
        self._initialise()

    @classmethod
    def from_params(cls, params: Params, *, in_channels: Mapping[str, int]) -> PixelDecoder:
        """Build the pixel decoder of `params.model` over maps of `in_channels`."""
        model = params.model
        return cls(
            in_channels=in_channels,
            hidden_dim=model.hidden_dim,
            num_heads=model.num_heads,
            num_layers=model.encoder_layers,
            feedforward_dim=model.encoder_feedforward,
            num_points=model.num_points,
        )

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the backbone's maps, outside mixed precision.

        Args:
            features: res2..res5, (B, C_i, H/s, W/s) at strides 4, 8, 16, 32.

        Returns:
            Mask features (B, d, H/4, W/4), and the encoded maps (B, d, ...) at strides 32, 16, 8.
        """
        with torch.autocast(device_type=features["res5"].device.type, enabled=False):
            levels = [
                project(features[level].float())
                for project, level in zip(self.input_proj, LEVELS, strict=True)
            ]
            memory = self.transformer(levels)  # strides 32, 16, 8
            lateral = self.adapter_1(features["res2"].float())  # (B, d, h4, w4)
            size = lateral.shape[-2:]
            upsampled = F.interpolate(memory[-1], size=size, mode="bilinear", align_corners=False)
            return self.mask_features(self.layer_1(lateral + upsampled)), memory

    def _initialise(self) -> None:
        for project in self.input_proj:
            nn.init.xavier_uniform_(project[0].weight)
            nn.init.zeros_(project[0].bias)
        for conv in (self.adapter_1, self.layer_1, self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)


class DeformableTransformer(nn.Module):
    """Encoder over the concatenated tokens of all levels; each level has a learned code."""

    def __init__(
        self,
        *,
        hidden_dim: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
        num_points: int,
    ) -> None:
        """Set widths, depth, and sampling points per head and level."""
        super().__init__()
        self.samples = num_heads * len(LEVELS) * num_points
        self.level_embed = nn.Parameter(torch.empty(len(LEVELS), hidden_dim).normal_())
        self.encoder = nn.Module()  # the level of nesting is part of the released names
        self.encoder.layers = nn.ModuleList(
            DeformableEncoderLayer(
                hidden_dim=hidden_dim,
                num_heads=num_heads,
                feedforward_dim=feedforward_dim,
                num_points=num_points,
            )
            for _ in range(num_layers)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Encode maps (B, d, h_l, w_l); returns maps of the same shapes."""
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        device, channels = levels[0].device, levels[0].shape[1]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        positions = torch.cat(
            [
                sine_encoding(height, width, channels, device=device) + code
                for (height, width), code in zip(shapes, self.level_embed, strict=True)
            ]
        )  # (N, d)
        centres = torch.cat([pixel_centres(h, w, device=device) for h, w in shapes])  # (N, 2)
        centres = centres.repeat(1, self.samples)  # for the samples of a query, side by side
        for layer in self.encoder.layers:
            tokens = layer(tokens, positions, centres, shapes)
        maps = tokens.split([height * width for height, width in shapes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(maps, shapes, strict=True)
        ]


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward network, each with residual and norm after it."""

    def __init__(
        self, *, hidden_dim: int, num_heads: int, feedforward_dim: int, num_points: int
    ) -> None:
        """Set the widths and the sampling points per head and level."""
        super().__init__()
        self.self_attn = DeformableAttention(
            hidden_dim=hidden_dim, num_heads=num_heads, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        centres: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Transform tokens (B, N, d); positions (N, d) enter the query only; centres as below."""
        attended = self.self_attn(tokens + positions, centres, tokens, shapes)
        tokens = self.norm1(tokens + attended)
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))


class DeformableAttention(nn.Module):
    """Every query reads a few learned places of every level, around its own position."""

    def __init__(self, *, hidden_dim: int, num_heads: int, num_points: int) -> None:
        """Set the width, which is a multiple of `num_heads`, and the points per head and level."""
        super().__init__()
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * len(LEVELS) * num_points
        self.sampling_offsets = nn.Linear(hidden_dim, 2 * samples)
        self.attention_weights = nn.Linear(hidden_dim, samples)
        self.value_proj = nn.Linear(hidden_dim, hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, hidden_dim)
        self._initialise()

    def forward(
        self,
        query: Tensor,
        centres: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Attend from query (B, Q, d) to tokens (B, N, d); returns (B, Q, d).

        Centres (Q, 2 M L P) are the place of each query, once for every sample. Small trailing axes
        are slow to broadcast and to normalise over, so sizes divide the weights of the offsets, and
        the softmax runs over an inner axis.
        """
        heads, levels, points = self.num_heads, len(LEVELS), self.num_points
        value = self.value_proj(tokens).unflatten(-1, (heads, -1))  # (B, N, M, C)
        scale = sample_scale(tuple(shapes), heads, points, device=query.device)  # (2 M L P,)
        offset = self.sampling_offsets
        offsets = F.linear(query, offset.weight * scale[:, None], offset.bias * scale)
        locations = (offsets + centres).unflatten(-1, (heads, levels, points, 2))
        weights = self.attention_weights(query).unflatten(-1, (heads, levels * points))
        weights = weights.transpose(-1, -2).softmax(-2).transpose(-1, -2)
        weights = weights.unflatten(-1, (levels, points))  # (B, Q, M, L, P)
        return self.output_proj(ms_deform_attn(value, shapes, locations, weights))

    def _initialise(self) -> None:
        """Point each head in a direction of its own, the farther the higher the point's number."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # (M, 2)
        reach = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        bias = directions[:, None, None] * reach[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(bias.expand(-1, len(LEVELS), -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)


@constant
def pixel_centres(height: int, width: int, *, device: torch.device) -> Tensor:
    """Return the centres (x, y) of all pixels in units of width and height, (height * width, 2)."""
    rows = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    columns = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


@constant
def sample_scale(
    shapes: tuple[tuple[int, int], ...], heads: int, points: int, *, device: torch.device
) -> Tensor:
    """Return 1 / width and 1 / height of the level of every sample, (2 M L P,) float32."""
    sizes = torch.tensor([(width, height) for height, width in shapes], device=device)  # (L, 2)
    return (1 / sizes.float())[:, None].expand(heads, -1, points, -1).flatten()
