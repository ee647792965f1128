"""EVA02 vision transformer with mask tokens, the student of the best MaskCLIP++.

In the last blocks each mask has a token, a copy of the class token, that sees the patches under its
mask and nothing else; nothing sees it. So masks do not disturb the image or one another, and image
and mask tokens are computed side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.constants import constant

OUTSIDE = -100.0
"""Added to the attention to patches outside a mask: an empty mask averages over all of them."""
_TRAINED_POSITIONS = 16.0
"""Rows and columns that the rotary code was trained with."""


class EvaAttention(nn.Module):
    """Self-attention with rotary code on patches; biases for queries and values alone."""

    def __init__(self, width: int, heads: int) -> None:
        """Set the width and the number of heads."""
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.inner_attn_ln = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend within class token and patches (B, 1 + N, C).

        Returns:
            The update, and keys and values of the patches (B, heads, N, c), for mask tokens.
        """
        query = rotated(self._query(tokens), code)
        key = rotated(self._split(self.k_proj(tokens)), code)
        value = self._split(self.v_proj(tokens) + self.v_bias)
        found = F.scaled_dot_product_attention(query, key, value)
        return self._join(found), key[:, :, 1:], value[:, :, 1:]

    def to_patches(self, masks: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Let mask tokens (B, Q, C) attend to patches with a bias (B, heads, Q, N)."""
        query = self._query(masks)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self._join(found)

    def _query(self, tokens: Tensor) -> Tensor:
        return self._split(self.q_proj(tokens) + self.q_bias)

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, c)

    def _join(self, values: Tensor) -> Tensor:
        return self.proj(self.inner_attn_ln(values.transpose(1, 2).flatten(2)))


class SwiGLU(nn.Module):
    """Gated feed-forward network with a LayerNorm inside."""

    def __init__(self, width: int, hidden: int) -> None:
        """Set outer and inner width."""
        super().__init__()
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.w3(self.ffn_ln(F.silu(self.w1(tokens)) * self.w2(tokens)))


class EvaBlock(nn.Module):
    """Pre-norm block for class token and patches, and for mask tokens beside them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        """Set widths and heads."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = EvaAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = SwiGLU(width, hidden)

    def forward(
        self, tokens: Tensor, code: Tensor, masks: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Update tokens (B, 1 + N, C) and, where there are any, mask tokens (B, Q, C)."""
        change, key, value = self.attn(self.norm1(tokens), code)
        tokens = tokens + change
        tokens = tokens + self.mlp(self.norm2(tokens))
        if masks is None or bias is None:
            return tokens, None
        masks = masks + self.attn.to_patches(self.norm1(masks), key, value, bias)
        return tokens, masks + self.mlp(self.norm2(masks))


class PatchEmbedding(nn.Module):
    """Cuts an image into patches."""

    def __init__(self, width: int, patch: int) -> None:
        """Set width and side of a patch."""
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, h, w)."""
        return self.proj(images)


class EvaTower(nn.Module):
    """The visual tower, under the names of EVA-CLIP."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        embed_dim: int,
        patch: int,
        side: int,
    ) -> None:
        """Set the sizes; `side` is that of the table of positions, in patches."""
        super().__init__()
        self.patch = patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.ModuleList(EvaBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, embed_dim)

    def forward(self, images: Tensor, weights: Tensor, mask_scale: Tensor) -> Tensor:
        """Embed what lies under masks, (B, Q, D), not normalised.

        Args:
            images: (B, 3, H, W), sides multiples of the patch.
            weights: (B, Q, h, w) masks, a weight per patch.
            mask_scale: (blocks with mask tokens, heads), logarithm of the weights' influence; the
                first row is the last block's.
        """
        maps = self.patch_embed(images)  # (B, C, h, w)
        size = (maps.shape[2], maps.shape[3])
        tokens = maps.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self._positions(size)
        head_width = self.cls_token.shape[-1] // self.blocks[0].attn.heads
        code = rotary_code(*size, head_width, device=images.device)
        masks = None
        for left, block in zip(range(len(self.blocks) - 1, -1, -1), self.blocks, strict=True):
            bias = mask_bias(weights, mask_scale[left]) if left < len(mask_scale) else None
            if bias is not None and masks is None:
                masks = tokens[:, :1].expand(-1, weights.shape[1], -1)
            tokens, masks = block(tokens, code, masks, bias)
        return self.head(self.norm(masks))

    def _positions(self, size: tuple[int, int]) -> Tensor:
        """Return the table of positions for a map, (1, 1 + h * w, C)."""
        first, table = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        side = round(table.shape[1] ** 0.5)
        if size == (side, side):
            return self.pos_embed
        square = table.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(square.float(), size=size, mode="bicubic", align_corners=True)
        return torch.cat([first, resized.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)


def mask_bias(weights: Tensor, scale: Tensor) -> Tensor:
    """Return what masks (B, Q, h, w) add to the attention of their tokens, (B, heads, Q, h * w).

    A patch counts where its weight exceeds half of the mask's largest.
    """
    flat = weights.flatten(2)[:, None]  # (B, 1, Q, N)
    inside = flat > flat.amax(-1, keepdim=True) / 2
    scaled = flat * scale.exp()[:, None, None]  # (B, heads, Q, N)
    return torch.where(inside, scaled, OUTSIDE)


@constant
def rotary_code(height: int, width: int, channels: int, *, device: torch.device) -> Tensor:
    """Return sine and cosine of every patch's angles, (2, h * w, channels).

    The first half of the channels turns with the row, the second with the column.
    """
    speeds = 10000.0 ** (-torch.arange(0, channels // 2, 2, device=device) / (channels // 2))

    def angles(count: int) -> Tensor:
        places = torch.arange(count, device=device) / count * _TRAINED_POSITIONS
        return torch.outer(places, speeds).repeat_interleave(2, dim=1)  # (count, channels / 2)

    rows = angles(height)[:, None].expand(-1, width, -1)
    columns = angles(width)[None].expand(height, -1, -1)
    both = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.stack([both.sin(), both.cos()])


def rotated(values: Tensor, code: Tensor) -> Tensor:
    """Turn pairs of channels of the patches in (B, heads, 1 + N, c); the class token stays."""
    first, patches = values[:, :, :1], values[:, :, 1:]
    even, odd = patches[..., 0::2], patches[..., 1::2]
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    patches = patches * code[1] + turned * code[0]
    return torch.cat([first, patches.to(first.dtype)], dim=2)
