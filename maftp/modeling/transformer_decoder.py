"""Masked-attention decoder (Mask2Former) with open-vocabulary prediction heads (FC-CLIP)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.modeling.mask_classification import classify, mask_pool
from maftp.modeling.position_encoding import sine_encoding

if TYPE_CHECKING:
    from maftp.config import Params

NUM_LEVELS = 3
"""Memory maps, visited in turn: strides 32, 16, 8."""
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class TransformerDecoder(nn.Module):
    """Queries that read the image inside their own masks, layer by layer."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_queries: int,
        hidden_dim: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
    ) -> None:
        """Set the widths; `embed_dim` is that of CLIP's joint space."""
        super().__init__()
        self.num_heads = num_heads
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        width = {"hidden_dim": hidden_dim}
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(**width, num_heads=num_heads) for _ in range(num_layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(**width, num_heads=num_heads) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(**width, feedforward_dim=feedforward_dim) for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        self.mask_embed = Mlp(in_dim=hidden_dim, hidden_dim=hidden_dim, out_dim=hidden_dim)
        self._mask_pooling_proj = nn.Sequential(
            nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, hidden_dim)
        )
        self.class_embed = Mlp(in_dim=hidden_dim, hidden_dim=hidden_dim, out_dim=embed_dim)

    @classmethod
    def from_params(cls, params: Params, *, embed_dim: int) -> TransformerDecoder:
        """Build the decoder of `params.model` for a joint space of `embed_dim`."""
        model = params.model
        return cls(
            embed_dim=embed_dim,
            num_queries=model.num_queries,
            hidden_dim=model.hidden_dim,
            num_heads=model.num_heads,
            num_layers=model.decoder_layers,
            feedforward_dim=model.decoder_feedforward,
        )

    def forward(
        self,
        mask_features: Tensor,
        memory: Sequence[Tensor],
        text: Tensor,
        rows: Tensor,
        *,
        auxiliary: bool,
    ) -> dict[str, Tensor | list[dict[str, Tensor]]]:
        """Predict masks and classes.

        Args:
            mask_features: (B, d, H/4, W/4).
            memory: maps (B, d, ...) at strides 32, 16, 8.
            text: (S + 1, D) unit rows, void last.
            rows: (K, n) int64, the rows of `text` that belong to each class.
            auxiliary: also return the predictions before the last layer; inference needs none, and
                leaves out their class logits.

        Returns:
            "pred_logits" (B, Q, K + 1), "pred_masks" (B, Q, H/4, W/4) and, when asked for,
            "aux_outputs", the same of each earlier call.
        """
        batch = mask_features.shape[0]
        tokens, positions = self._memory_tokens(memory)
        output = self.query_feat.weight.expand(batch, -1, -1)  # (B, Q, d)
        query_position = self.query_embed.weight  # (Q, d)
        masks = self._masks(output, mask_features)
        masks_of_calls, outputs_of_calls = [masks], [output]
        for index, (attend, interact, transform) in enumerate(self._layers()):
            level = index % NUM_LEVELS
            blocked = self._blocked(masks, memory[level])
            output = attend(output, query_position, tokens[level], positions[level], blocked)
            output = interact(output, query_position)
            output = transform(output)
            masks = self._masks(output, mask_features)
            masks_of_calls.append(masks)
            outputs_of_calls.append(output)
        first = 0 if auxiliary else len(masks_of_calls) - 1
        calls = [
            {
                "pred_logits": self._logits(output, masks, mask_features, text, rows),
                "pred_masks": masks,
            }
            for output, masks in zip(outputs_of_calls[first:], masks_of_calls[first:], strict=True)
        ]
        return {**calls[-1], "aux_outputs": calls[:-1]} if auxiliary else dict(calls[-1])

    def _layers(self) -> zip[tuple[nn.Module, nn.Module, nn.Module]]:
        return zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )

    def _memory_tokens(self, memory: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Flatten the memory maps and add the level code; positions are (N_l, d)."""
        tokens, positions = [], []
        for level, feature in enumerate(memory):
            channels, height, width = feature.shape[1:]
            tokens.append(feature.flatten(2).transpose(1, 2) + self.level_embed.weight[level])
            positions.append(sine_encoding(height, width, channels, device=feature.device))
        return tokens, positions

    def _masks(self, output: Tensor, mask_features: Tensor) -> Tensor:
        """Mask logits (B, Q, H/4, W/4) of the queries (B, Q, d)."""
        embedding = self.mask_embed(self.decoder_norm(output))
        return torch.einsum("bqc,bchw->bqhw", embedding, mask_features)

    def _logits(
        self,
        output: Tensor,
        masks: Tensor,
        mask_features: Tensor,
        text: Tensor,
        rows: Tensor,
    ) -> Tensor:
        """Class logits (B, Q, K + 1) from the queries and what lies under their masks."""
        pooled = self._mask_pooling_proj(mask_pool(mask_features, masks))
        embedding = self.class_embed(pooled + self.decoder_norm(output))
        return classify(embedding, text, self.logit_scale, rows)

    @torch.no_grad()
    def _blocked(self, masks: Tensor, memory: Tensor) -> Tensor:
        """Where queries may not look on `memory` (B, d, h, w): (B * heads, Q, h * w) bool."""
        size = memory.shape[-2:]
        resized = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        blocked = resized.sigmoid().flatten(2) < 0.5
        blocked &= ~blocked.all(-1, keepdim=True)  # a row blocked everywhere would give NaN
        return blocked.repeat_interleave(self.num_heads, dim=0)


class CrossAttentionLayer(nn.Module):
    """Queries attend to one memory level, with a residual and a norm after it."""

    def __init__(self, *, hidden_dim: int, num_heads: int) -> None:
        """Set width and heads."""
        super().__init__()
        self.multihead_attn = _attention(hidden_dim, num_heads)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(
        self, output: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, mask: Tensor
    ) -> Tensor:
        """Update queries (B, Q, d) from memory (B, N, d); True in mask (B * heads, Q, N) blocks."""
        attended, _ = self.multihead_attn(
            query=output + query_position,
            key=memory + position,
            value=memory,
            attn_mask=mask,
            need_weights=False,
        )
        return self.norm(output + attended)


class SelfAttentionLayer(nn.Module):
    """Queries attend to each other, with a residual and a norm after it."""

    def __init__(self, *, hidden_dim: int, num_heads: int) -> None:
        """Set width and heads."""
        super().__init__()
        self.self_attn = _attention(hidden_dim, num_heads)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, output: Tensor, query_position: Tensor) -> Tensor:
        """Update queries (B, Q, d)."""
        query = output + query_position
        attended, _ = self.self_attn(query=query, key=query, value=output, need_weights=False)
        return self.norm(output + attended)


class FeedForwardLayer(nn.Module):
    """Two linear maps with ReLU between, a residual and a norm after them."""

    def __init__(self, *, hidden_dim: int, feedforward_dim: int) -> None:
        """Set outer and inner width."""
        super().__init__()
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, output: Tensor) -> Tensor:
        """Transform queries (B, Q, d)."""
        return self.norm(output + self.linear2(F.relu(self.linear1(output))))


class Mlp(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, *, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        """Set the widths."""
        super().__init__()
        widths = (in_dim, hidden_dim, hidden_dim, out_dim)
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


def _attention(hidden_dim: int, num_heads: int) -> nn.MultiheadAttention:
    """Multi-head attention with Xavier weights, also for the output projection, and zero biases."""
    attention = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
    nn.init.xavier_uniform_(attention.out_proj.weight)
    return attention
