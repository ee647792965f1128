"""MAFT+ (ECCV 2024): CLIP fine-tuned to be mask-aware, its text adapted to each image.

The forward pass is the method's figure: a segmentation head finds masks on detached CLIP features;
CLIP embeds what lies under each mask; content-dependent transfer adapts the text embeddings to the
image; the two are compared. In training the mask-aware loss lets class probabilities rank masks by
their quality, and representation compensation holds the fine-tuned CLIP near the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maftp.errors import TrainingError
from maftp.losses.mask_aware import mask_aware_loss
from maftp.losses.predictions import Predictions
from maftp.losses.representation_compensation import representation_compensation_loss
from maftp.modeling.clip_backbone import ClipBackbone
from maftp.modeling.content_dependent_transfer import ContentDependentTransfer
from maftp.modeling.mask_classification import class_scores, classify, mask_pool
from maftp.modeling.segmenter import Segmenter, Targets


@dataclass(frozen=True)
class LossWeights:
    """Weights of the two losses that MAFT+ adds; 0 leaves one out."""

    mask_aware: float
    compensation: float
    scales: tuple[int, ...]
    """Pooling scales of representation compensation."""


class MaftPlus(Segmenter):
    """The method, with one student pass per image."""

    def __init__(
        self,
        *,
        teacher: ClipBackbone | None,
        cdt: ContentDependentTransfer | None,
        loss_weights: LossWeights,
        trust_weight: float = 0.0,
        **parts: Any,
    ) -> None:
        """Join the parts; see `Segmenter` for the others.

        Args:
            teacher: frozen copy of the original CLIP, needed in training with compensation only.
            cdt: content-dependent transfer; None compares with the plain text embeddings.
            loss_weights: of the mask-aware loss and of representation compensation.
            trust_weight: of COAT, at inference.
            parts: the arguments of `Segmenter`.
        """
        super().__init__(**parts)
        self.backbone_t = teacher  # its name in released checkpoints
        self.cdt = cdt
        self.loss_weights = loss_weights
        self.trust_weight = trust_weight
        # What no loss reaches stays frozen: data-parallel training waits for every gradient.
        if loss_weights.mask_aware or loss_weights.compensation:
            self.backbone.unfreeze_trunk()
        if cdt is not None:
            cdt.requires_grad_(loss_weights.mask_aware > 0)
        self.make_teacher: Callable[[], ClipBackbone] | None = None

    @property
    def architecture(self) -> dict[str, Any]:
        """Name and the choices of content-dependent transfer that shapes do not show."""
        form = None if self.cdt is None else self.cdt.form
        tokens = None if self.cdt is None else self.cdt.tokens
        return {"model": "maftp", "cdt_form": form, "cdt_tokens": tokens}

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Train the head on detached features, and CLIP; see `Segmenter.losses`."""
        outputs, dense, clip_logits = self._outputs(images, text, rows)
        losses = self.criterion(outputs, targets)
        masks = outputs.masks[:, -1]
        return losses | self._clip_losses(clip_logits, masks, targets, images, dense)

    def scores(
        self, images: Tensor, text: Tensor, rows: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Let CLIP decide the class and the head whether there is one; see `Segmenter.scores`."""
        outputs, _, clip_logits = self._outputs(images, text, rows)
        head_logits = outputs.logits[:, -1]
        scores = class_scores(head_logits, clip_logits, trust_weight=self.trust_weight)
        return scores, outputs.masks[:, -1]

    def _outputs(
        self, images: Tensor, text: Tensor, rows: Tensor
    ) -> tuple[Predictions, Tensor, Tensor]:
        """Return what the head predicts, CLIP's dense features and its logits (B, Q, K + 1)."""
        features = self.backbone(images)  # res2..res5
        dense = features["res5"]  # (B, C5, H/32, W/32)
        outputs = self.sem_seg_head(
            self._head_features(features, images), text, rows, auxiliary=self.training
        )  # (B, L, Q, K+1), (B, L, Q, H/4, W/4)
        pooled = self.backbone.visual_head(mask_pool(dense, outputs.masks[:, -1]))  # (B, Q, D)
        adapted = self._adapt(text, dense)  # (B, S+1, D)
        return outputs, dense, classify(pooled, adapted, self.backbone.logit_scale, rows)

    def train(self, mode: bool = True) -> MaftPlus:
        """Set the mode; training with compensation fetches the teacher when it was put off."""
        if mode and self.loss_weights.compensation and self.backbone_t is None:
            if self.make_teacher is not None:
                self.backbone_t = self.make_teacher().to(self.device)
        super().train(mode)
        return self

    def _head_features(self, features: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Detach what the head sees; its losses must not reach CLIP.

        With stochastic depth two passes see different networks, as in the public code; without it
        one pass gives the same losses and gradients.
        """
        if self.training and self.backbone.stochastic_depth:
            with torch.no_grad():
                return self.backbone(images)
        return {name: feature.detach() for name, feature in features.items()}

    def _adapt(self, text: Tensor, dense: Tensor) -> Tensor:
        if self.cdt is None:
            return text
        return self.cdt(text, dense, self.backbone.visual_head)

    def _clip_losses(
        self,
        clip_logits: Tensor,
        masks: Tensor,
        targets: Targets,
        images: Tensor,
        dense: Tensor,
    ) -> dict[str, Tensor]:
        """Losses that fine-tune CLIP, under the names of the public code."""
        weights = self.loss_weights
        losses = {}
        if weights.mask_aware:
            ranking = mask_aware_loss(clip_logits, masks, targets)
            losses["ranking_loss"] = weights.mask_aware * ranking
        if weights.compensation:
            compensation = representation_compensation_loss(
                dense, self._teach(images), scales=weights.scales
            )
            losses["rc_loss"] = weights.compensation * compensation
        return losses

    @torch.no_grad()
    def _teach(self, images: Tensor) -> Tensor:
        if self.backbone_t is None:
            raise TrainingError(
                "representation compensation needs the original CLIP; build the model with a "
                "teacher, or set train.rc_weight to 0"
            )
        return self.backbone_t(images)["res5"]
