"""FC-CLIP (NeurIPS 2023), the frozen baseline: the same head and pooling, CLIP left as it is.

Class probabilities are a geometric ensemble of the head's and CLIP's, with one weight for classes
seen in training and another for new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maftp.errors import MaftpError
from maftp.losses.predictions import Predictions
from maftp.modeling.mask_classification import (
    classify,
    geometric_ensemble,
    has_area,
    mask_pool,
)
from maftp.modeling.segmenter import NOT_SEEN, Segmenter, Targets

if TYPE_CHECKING:
    from maftp.config import Params


class FCCLIP(Segmenter):
    """Frozen CLIP with a trained segmentation head."""

    def __init__(
        self,
        *,
        alpha: float,
        beta: float,
        valid_masks_only: bool = False,
        trust_weight: float = 0.0,
        **parts: Any,
    ) -> None:
        """Join the parts; see `Segmenter` for the others.

        Args:
            alpha: weight of CLIP for classes seen in training.
            beta: weight of CLIP for the others.
            valid_masks_only: leave queries with an empty mask to the head.
            trust_weight: of COAT, at inference.
            parts: the arguments of `Segmenter`.
        """
        super().__init__(**parts)
        self.alpha = alpha
        self.beta = beta
        self.valid_masks_only = valid_masks_only
        self.trust_weight = trust_weight

    @classmethod
    def from_params(cls, params: Params, **parts: Any) -> FCCLIP:
        """Build it with the ensemble of `params.model`; `parts` as in `Segmenter`."""
        alpha, beta = ensemble_weights(params)
        return cls(alpha=alpha, beta=beta, trust_weight=params.model.trust_weight, **parts)

    @property
    def architecture(self) -> dict[str, Any]:
        """The name alone; the ensemble's weights are free at inference."""
        return {"model": "fcclip"}

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Train the head; see `Segmenter.losses`."""
        return self.criterion(self._outputs(images, text, rows)[0], targets)

    def scores(
        self, images: Tensor, text: Tensor, rows: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mix the head's and CLIP's class probabilities; see `Segmenter.scores`."""
        if seen is None:
            raise MaftpError(NOT_SEEN)
        outputs, dense = self._outputs(images, text, rows)
        masks = outputs.masks[:, -1]
        scores = geometric_ensemble(
            outputs.logits[:, -1],
            self._clip_logits(dense, masks, text, rows),
            seen,
            alpha=self.alpha,
            beta=self.beta,
            valid=has_area(masks, dense.shape[-2:]) if self.valid_masks_only else None,
            trust_weight=self.trust_weight,
        )
        return scores, masks

    def _clip_logits(self, dense: Tensor, masks: Tensor, text: Tensor, rows: Tensor) -> Tensor:
        """Let CLIP classify what lies under each mask, (B, Q, K + 1)."""
        pooled = self.backbone.visual_head(mask_pool(dense, masks))  # (B, Q, D)
        return classify(pooled, text, self.backbone.logit_scale, rows)

    def _outputs(self, images: Tensor, text: Tensor, rows: Tensor) -> tuple[Predictions, Tensor]:
        """Return what the head predicts, and CLIP's dense features."""
        with torch.no_grad():
            features = self.backbone(images)  # res2..res5
        outputs = self.sem_seg_head(features, text, rows, auxiliary=self.training)
        return outputs, features["res5"]


def ensemble_weights(params: Params) -> tuple[float, float]:
    """Return the weights of CLIP for seen and for unseen classes."""
    model = params.model
    alone = {"head": (0.0, 0.0), "clip": (1.0, 1.0)}
    return alone.get(model.ensemble, (model.ensemble_alpha, model.ensemble_beta))
