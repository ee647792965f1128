"""Content-dependent transfer of MAFT+: text embeddings attend to the image's dense CLIP tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from maftp.modeling.attention import Attention
from maftp.modeling.position_encoding import sine_encoding

if TYPE_CHECKING:
    from maftp.config import Params

Form = Literal["semantic", "panoptic"]
Tokens = Literal["released", "spatial"]


class ContentDependentTransfer(nn.Module):
    """Adapts the text embeddings T of a vocabulary to each image of a batch."""

    def __init__(
        self, *, embed_dim: int, num_heads: int, form: Form, tokens: Tokens, num_layers: int = 1
    ) -> None:
        """Set width, heads and depth, the residual's form and how the map becomes tokens."""
        super().__init__()
        self.form = form
        self.tokens = tokens
        # `cross_atten` and its spelling are names of released checkpoints.
        self.cross_atten = TextImageAttention(embed_dim=embed_dim, num_heads=num_heads, form=form)
        self.more_layers = nn.ModuleList(  # the method has one
            TextImageAttention(embed_dim=embed_dim, num_heads=num_heads, form=form)
            for _ in range(num_layers - 1)
        )

    @classmethod
    def from_params(cls, params: Params, *, embed_dim: int) -> ContentDependentTransfer:
        """Build the transfer of `params.model.cdt` in a joint space of `embed_dim`."""
        cdt = params.model.cdt
        return cls(
            embed_dim=embed_dim,
            num_heads=cdt.num_heads,
            form=cdt.form,
            tokens=cdt.tokens,
            num_layers=cdt.layers,
        )

    def forward(
        self, text: Tensor, dense: Tensor, visual_head: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the text embeddings of each image; they are not normalised again.

        Args:
            text: (S + 1, D) unit rows, void last.
            dense: (B, C5, h, w), CLIP's map at stride 32.
            visual_head: CLIP's map from (..., C5) to (..., D).

        Returns:
            (B, S + 1, D).
        """
        batch, _, height, width = dense.shape
        tokens = visual_head(dense_tokens(dense, order=self.tokens))  # (B, h*w, D)
        code = sine_encoding(height, width, tokens.shape[-1], device=dense.device)  # (h*w, D)
        adapted = self.cross_atten(text.expand(batch, -1, -1), tokens, code)
        for layer in self.more_layers:
            adapted = layer(adapted, tokens, code)
        return adapted


class TextImageAttention(nn.Module):
    """Cross-attention from text rows to image tokens, a linear map and a residual."""

    def __init__(self, *, embed_dim: int, num_heads: int, form: Form) -> None:
        """Set width and heads; the panoptic form starts as the identity."""
        super().__init__()
        self.form = form
        self.multihead_attn = Attention(embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim)
        self.MLP = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.multihead_attn.out_proj.weight)
        if form == "panoptic":
            nn.init.zeros_(self.MLP.weight)
            nn.init.zeros_(self.MLP.bias)

    def forward(self, text: Tensor, tokens: Tensor, code: Tensor) -> Tensor:
        """Update text (B, R, D) from tokens (B, N, D) with position code (N, D)."""
        change = self.MLP(self.multihead_attn(text, tokens + code, tokens))
        if self.form == "semantic":
            return self.norm(text + change)
        return text + self.norm(change)


def dense_tokens(dense: Tensor, *, order: Tokens) -> Tensor:
    """Turn a dense map (B, C, h, w) into tokens (B, h * w, C).

    "spatial" gives each pixel's channels. "released" cuts the flattened (C, h, w) block of an
    image into runs of C numbers, so that a token holds about C / (h * w) whole channel planes
    although its position code is that of a pixel: the public code forgot to move the channels last,
    and released weights were trained that way. The order is that of the logical tensor, whatever
    its memory format.
    """
    if order == "spatial":
        return dense.flatten(2).transpose(1, 2)
    batch, channels, height, width = dense.shape
    return dense.reshape(batch, height * width, channels)
