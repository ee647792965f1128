"""Multi-head attention with the parameters of PyTorch's module, and fewer operators."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.MultiheadAttention):
    """Attention over tokens (B, N, d), batch first and without dropout.

    PyTorch's module copies a mask for every head and turns it into numbers; here all heads share
    one. Queries and keys that are the same tensor are projected together.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        """Set width and heads."""
        super().__init__(embed_dim, num_heads, batch_first=True)

    def forward(  # type: ignore[override]  # no weights are returned
        self, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None
    ) -> Tensor:
        """Attend from query (B, Q, d) to key and value (B, N, d); returns (B, Q, d).

        Args:
            query: what looks.
            key: what is compared.
            value: what is read.
            bias: (B, 1, Q, N), added to the logits of all heads; minus infinity hides.
        """
        heads = [
            part.unflatten(-1, (self.num_heads, -1)) for part in self._project(query, key, value)
        ]
        attended = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in heads),  # (B, heads, N, d / heads)
            attn_mask=bias,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        width = self.embed_dim
        together = key is query
        sizes = (2 * width, width) if together else (width, width, width)
        inputs = (query, value) if together else (query, key, value)
        projected = [
            F.linear(tokens, weight, bias)
            for tokens, weight, bias in zip(
                inputs,
                self.in_proj_weight.split(sizes),
                self.in_proj_bias.split(sizes),
                strict=True,
            )
        ]
        return (*projected[0].chunk(2, dim=-1), projected[1]) if together else tuple(projected)
