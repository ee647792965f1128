"""Masked-attention decoder (Mask2Former) with open-vocabulary prediction heads (FC-CLIP)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.predictions import Predictions
from maftp.modeling.attention import Attention
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
    ) -> Predictions:
        """Predict masks and classes.

        Args:
            mask_features: (B, d, H/4, W/4).
            memory: maps (B, d, ...) at strides 32, 16, 8.
            text: (S + 1, D) unit rows, void last.
            rows: (K, n) int64, the rows of `text` that belong to each class.
            auxiliary: also return the predictions before the last layer; inference needs none.
        """
        values, keys = self._memory_tokens(memory)
        small = [_resized(mask_features, like=level) for level in memory]
        output = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)  # (B, Q, d)
        query_position = self.query_embed.weight  # (Q, d)
        outputs = [output]
        for index, (attend, interact, transform) in enumerate(self._layers()):
            level = index % NUM_LEVELS
            blocked = self._blocked(output, small[level])
            output = attend(output, query_position, values[level], keys[level], blocked)
            output = interact(output, query_position)
            output = transform(output)
            outputs.append(output)
        chosen = outputs if auxiliary else outputs[-1:]
        return self._predict(torch.stack(chosen, dim=1), mask_features, text, rows)

    def _layers(self) -> zip[tuple[nn.Module, nn.Module, nn.Module]]:
        return zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )

    def _memory_tokens(self, memory: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Flatten the memory maps and add the level code; once more with positions, as keys."""
        values, keys = [], []
        for feature, code in zip(memory, self.level_embed.weight, strict=True):
            channels, height, width = feature.shape[1:]
            values.append(feature.flatten(2).transpose(1, 2) + code)  # (B, N, d)
            position = sine_encoding(height, width, channels, device=feature.device)
            keys.append(values[-1] + position)
        return values, keys

    def _predict(
        self, outputs: Tensor, mask_features: Tensor, text: Tensor, rows: Tensor
    ) -> Predictions:
        """Turn the queries after L calls, (B, L, Q, d), into masks and classes."""
        normalised = self.decoder_norm(outputs)
        embeddings = self.mask_embed(normalised)  # (B, L, Q, d)
        with torch.no_grad():
            masks = _product(embeddings.flatten(1, 2), mask_features)  # (B, L * Q, H/4, W/4)
        pooled = mask_pool(mask_features, masks).view_as(outputs)
        embedding = self.class_embed(self._mask_pooling_proj(pooled) + normalised)
        logits = classify(embedding, text, self.logit_scale, rows)
        return Predictions(
            logits=logits,
            masks=masks.unflatten(1, outputs.shape[1:3]),
            embeddings=embeddings,
            features=mask_features,
        )

    @torch.no_grad()
    def _blocked(self, output: Tensor, features: Tensor) -> Tensor:
        """Return minus infinity where queries (B, Q, d) may not look on a memory map, else zero.

        A query looks inside its own mask. Mask logits are linear in the features, so not masks but
        the features were resized to the map, (B, d, h, w), once for all layers.

        Returns:
            (B, 1, Q, h * w), to be added to the logits of the attention.
        """
        logits = _product(self.mask_embed(self.decoder_norm(output)), features).flatten(2)
        blocked = logits < 0
        blocked &= ~blocked.all(-1, keepdim=True)  # a row blocked everywhere would give NaN
        return logits.new_zeros(()).masked_fill(blocked, -torch.inf)[:, None]


@torch.no_grad()
def _resized(features: Tensor, *, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _product(embeddings: Tensor, features: Tensor) -> Tensor:
    """Mask logits (B, Q, h, w) of embeddings (B, Q, d) and features (B, d, h, w)."""
    return (embeddings @ features.flatten(2)).unflatten(2, features.shape[-2:])


class CrossAttentionLayer(nn.Module):
    """Queries attend to one memory level, with a residual and a norm after it."""

    def __init__(self, *, hidden_dim: int, num_heads: int) -> None:
        """Set width and heads."""
        super().__init__()
        self.multihead_attn = _attention(hidden_dim, num_heads)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(
        self, output: Tensor, query_position: Tensor, values: Tensor, keys: Tensor, blocked: Tensor
    ) -> Tensor:
        """Update queries (B, Q, d) from memory (B, N, d); `blocked` (B, 1, Q, N) is added."""
        attended = self.multihead_attn(output + query_position, keys, values, bias=blocked)
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
        return self.norm(output + self.self_attn(query, query, output))


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


def _attention(hidden_dim: int, num_heads: int) -> Attention:
    """Multi-head attention with Xavier weights, also for the output projection, and zero biases."""
    attention = Attention(hidden_dim, num_heads)
    nn.init.xavier_uniform_(attention.out_proj.weight)
    return attention
