"""From an image and text embeddings to semantic scores, as one module without Python choices.

The text side stays outside: embeddings are inputs, so that one exported program serves any
vocabulary. Height and width are fixed by the trace; the number of classes and synonyms is free.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from maftp.modeling.fcclip import FCCLIP
from maftp.modeling.maft_plus import MaftPlus
from maftp.modeling.postprocessing import semantic_inference


class ImagePath(nn.Module):
    """Semantic scores of one image for the classes of its text input."""

    def __init__(self, model: MaftPlus | FCCLIP) -> None:
        """Copy what inference needs of a model; the text tower and the teacher are left out."""
        super().__init__()
        kept = copy.deepcopy(model).cpu().float().eval()
        if isinstance(kept, MaftPlus):
            kept.backbone_t = None
        clip = kept.backbone.clip_model
        for name, _ in list(clip.named_children()):
            if name != "visual":
                setattr(clip, name, nn.Identity())
        clip.positional_embedding = None
        clip.text_projection = None
        self.model = kept.requires_grad_(False)

    def forward(self, image: Tensor, text: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: (1, 3, H, W) float32, RGB in 0..255; H and W multiples of 32.
            text: (S, D) unit rows, one per synonym.
            rows: (K, n) int64, the rows of `text` that belong to each class; a class with fewer
                synonyms repeats one.
            seen: (K,) bool, classes of the training vocabulary; used by the frozen baseline only.

        Returns:
            (K, H, W) scores, not normalised; the largest is the pixel's class.
        """
        model = self.model
        images = (image - model.pixel_mean) / model.pixel_std
        scores, masks = model.scores(images, model.with_void(text), rows, seen)
        size = image.shape[-2:]
        full = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return semantic_inference(scores[0], full[0])
