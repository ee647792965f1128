"""MAFT+ (ECCV 2024): CLIP fine-tuned to be mask-aware, its text adapted to each image.

The forward pass is the method's figure: a segmentation head finds masks on detached CLIP features;
CLIP embeds what lies under each mask; content-dependent transfer adapts the text embeddings to the
image; the two are compared. In training the mask-aware loss lets class probabilities rank masks by
their quality, and representation compensation holds the fine-tuned CLIP near the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maftp.errors import TrainingError
from maftp.losses.mask_aware import mask_aware_loss
from maftp.losses.representation_compensation import representation_compensation_loss
from maftp.modeling.clip_backbone import ClipBackbone
from maftp.modeling.content_dependent_transfer import ContentDependentTransfer
from maftp.modeling.mask_classification import class_scores, classify, mask_pool
from maftp.modeling.segmenter import BatchedInputs, Result, Segmenter


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
        **parts: Any,
    ) -> None:
        """Join the parts; see `Segmenter` for the others.

        Args:
            teacher: frozen copy of the original CLIP, needed in training with compensation only.
            cdt: content-dependent transfer; None compares with the plain text embeddings.
            loss_weights: of the mask-aware loss and of representation compensation.
            parts: the arguments of `Segmenter`.
        """
        super().__init__(**parts)
        self.backbone_t = teacher  # its name in released checkpoints
        self.cdt = cdt
        self.loss_weights = loss_weights
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

    def forward(self, batched_inputs: BatchedInputs) -> dict[str, Tensor] | list[Result]:
        """Compute losses in training mode, results in evaluation mode.

        Args:
            batched_inputs: per image `image` (3, H0, W0) RGB in 0..255; optionally `height` and
                `width` of the output; in training `instances` with `gt_classes` and `gt_masks`.

        Returns:
            In training weighted losses by name, to be summed. Otherwise per image `sem_seg`
            (K, height, width), or `labels`, and `panoptic_seg` (ids, segments) where that is on.
        """
        names = self.training_names if self.training else self.test_names
        text, num_synonyms = self.classifier(names)  # (S+1, D)
        images = self.preprocess(batched_inputs)  # (B, 3, H, W)
        features = self.backbone(images.tensor)  # res2..res5
        dense = features["res5"]  # (B, C5, H/32, W/32)

        outputs = self.sem_seg_head(
            self._head_features(features, images.tensor),
            text,
            num_synonyms,
            auxiliary=self.training,
        )  # (B, Q, K+1), (B, Q, H/4, W/4)
        masks = outputs["pred_masks"].detach()
        pooled = self.backbone.visual_head(mask_pool(dense, masks))  # (B, Q, D)
        adapted = self._adapt(text, dense)  # (B, S+1, D)
        clip_logits = classify(pooled, adapted, self.backbone.logit_scale, num_synonyms)

        if self.training:
            targets = self.targets(batched_inputs, tuple(images.tensor.shape[-2:]))
            losses = self.criterion(outputs, targets)
            return losses | self._clip_losses(clip_logits, masks, targets, images.tensor, dense)
        scores = class_scores(outputs["pred_logits"], clip_logits)  # (B, Q, K+1)
        return self.results(batched_inputs, images, scores, masks)

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
        targets: Sequence[Mapping[str, Tensor]],
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
