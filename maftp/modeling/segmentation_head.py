"""Segmentation head: pixel and transformer decoder, from CLIP's maps to masks and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from maftp.losses.predictions import Predictions
from maftp.modeling.pixel_decoder import PixelDecoder
from maftp.modeling.transformer_decoder import TransformerDecoder

if TYPE_CHECKING:
    from maftp.config import Params


class SegmentationHead(nn.Module):
    """The trained part that finds masks; it sees detached CLIP features."""

    def __init__(self, *, pixel_decoder: PixelDecoder, predictor: TransformerDecoder) -> None:
        """Join the two decoders."""
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_params(
        cls, params: Params, *, in_channels: Mapping[str, int], embed_dim: int
    ) -> SegmentationHead:
        """Build the head of `params.model` for a CLIP with these widths."""
        return cls(
            pixel_decoder=PixelDecoder.from_params(params, in_channels=in_channels),
            predictor=TransformerDecoder.from_params(params, embed_dim=embed_dim),
        )

    def forward(
        self,
        features: Mapping[str, Tensor],
        text: Tensor,
        rows: Tensor,
        *,
        auxiliary: bool,
    ) -> Predictions:
        """Predict from res2..res5 and text (S + 1, D); see `TransformerDecoder.forward`."""
        mask_features, memory = self.pixel_decoder(features)
        return self.predictor(mask_features, memory, text, rows, auxiliary=auxiliary)
