"""From an image and text embeddings to semantic scores, as one module without Python choices.

The text side stays outside: embeddings are inputs, so that one exported program serves any
vocabulary. Height and width are fixed by the trace; the number of classes and synonyms is free.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.modeling.fcclip import FCCLIP
from maftp.modeling.maft_plus import MaftPlus
from maftp.modeling.mask_classification import (
    class_scores,
    classify,
    geometric_ensemble,
    mask_pool,
)
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
        void = F.normalize(model.void_embedding.weight, dim=-1)
        text = torch.cat([text, void])  # (S+1, D)
        images = (image - model.pixel_mean) / model.pixel_std
        features = model.backbone(images)  # res2..res5
        dense = features["res5"]
        outputs = model.sem_seg_head(features, text, None, auxiliary=False)
        masks = outputs["pred_masks"]
        pooled = model.backbone.visual_head(mask_pool(dense, masks))  # (1, Q, D)
        adapted = model._adapt(text, dense) if isinstance(model, MaftPlus) else text
        clip_logits = _best(classify(pooled, adapted, model.backbone.logit_scale, None), rows)
        head_logits = _best(outputs["pred_logits"], rows)
        if isinstance(model, MaftPlus):
            scores = class_scores(head_logits, clip_logits)
        else:
            scores = geometric_ensemble(
                head_logits, clip_logits, seen, alpha=model.alpha, beta=model.beta
            )
        size = image.shape[-2:]
        full = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return semantic_inference(scores[0], full[0])


def _best(logits: Tensor, rows: Tensor) -> Tensor:
    """Reduce (1, Q, S + 1) to (1, Q, K + 1): the best synonym of each class, then void."""
    return torch.cat([logits[..., rows].amax(-1), logits[..., -1:]], dim=-1)


def padded_rows(num_synonyms: tuple[int, ...]) -> Tensor:
    """Return (K, n) the text rows of each class; shorter classes repeat their last row."""
    longest = max(num_synonyms)
    rows, first = [], 0
    for count in num_synonyms:
        own = list(range(first, first + count))
        rows.append(own + [own[-1]] * (longest - count))
        first += count
    return torch.tensor(rows)
