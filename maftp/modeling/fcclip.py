"""FC-CLIP (NeurIPS 2023), the frozen baseline: the same head and pooling, CLIP left as it is.

Class probabilities are a geometric ensemble of the head's and CLIP's, with one weight for classes
seen in training and another for new ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maftp.data.vocabulary import seen_categories
from maftp.errors import MaftpError
from maftp.modeling.mask_classification import (
    classify,
    geometric_ensemble,
    has_area,
    mask_pool,
)
from maftp.modeling.segmenter import BatchedInputs, Result, Segmenter


class FCCLIP(Segmenter):
    """Frozen CLIP with a trained segmentation head."""

    def __init__(
        self, *, alpha: float, beta: float, valid_masks_only: bool = False, **parts: Any
    ) -> None:
        """Join the parts; see `Segmenter` for the others.

        Args:
            alpha: weight of CLIP for classes seen in training.
            beta: weight of CLIP for the others.
            valid_masks_only: leave queries with an empty mask to the head.
            parts: the arguments of `Segmenter`.
        """
        super().__init__(**parts)
        self.alpha = alpha
        self.beta = beta
        self.valid_masks_only = valid_masks_only

    @property
    def architecture(self) -> dict[str, Any]:
        """The name alone; the ensemble's weights are free at inference."""
        return {"model": "fcclip"}

    def forward(self, batched_inputs: BatchedInputs) -> dict[str, Tensor] | list[Result]:
        """Compute losses in training mode, results in evaluation mode; as `MaftPlus.forward`."""
        names = self.training_names if self.training else self.test_names
        text, num_synonyms = self.classifier(names)  # (S+1, D)
        images = self.preprocess(batched_inputs)  # (B, 3, H, W)
        with torch.no_grad():
            features = self.backbone(images.tensor)  # res2..res5
        outputs = self.sem_seg_head(features, text, num_synonyms, auxiliary=self.training)
        if self.training:
            targets = self.targets(batched_inputs, tuple(images.tensor.shape[-2:]))
            return self.criterion(outputs, targets)

        dense, masks = features["res5"], outputs["pred_masks"]
        pooled = self.backbone.visual_head(mask_pool(dense, masks))  # (B, Q, D)
        clip_logits = classify(pooled, text, self.backbone.logit_scale, num_synonyms)
        scores = geometric_ensemble(
            outputs["pred_logits"],
            clip_logits,
            self._seen(),
            alpha=self.alpha,
            beta=self.beta,
            valid=has_area(masks, dense.shape[-2:]) if self.valid_masks_only else None,
        )  # (B, Q, K+1)
        return self.results(batched_inputs, images, scores, masks)

    def _seen(self) -> Tensor:
        """Tell which test classes share a synonym with a training class, (K,) bool."""
        if self.training_names is None or self.test_names is None:
            raise MaftpError(
                "the ensemble weighs classes by whether they were seen in training; call "
                "set_training_vocabulary(names) first"
            )
        seen = seen_categories(self.test_names, self.training_names)
        return torch.tensor(seen, device=self.device)
