"""OVRCOAT (CVPR 2026): FC-CLIP with a trained trunk (OVR) and a corrected void probability (COAT).

The forward pass is FC-CLIP's. In training the head's losses reach CLIP's trunk, and a cross-entropy
of CLIP's own class probabilities at the matched queries is added. At inference CLIP's confidence
lowers the head's probability of void (`model.trust_weight`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from maftp.losses.region_to_text import region_to_text_loss
from maftp.modeling.fcclip import FCCLIP
from maftp.modeling.segmenter import Targets

if TYPE_CHECKING:
    from maftp.config import Params


@dataclass(frozen=True)
class OvrLoss:
    """The loss that OVR adds, and what it trains beside the trunk."""

    weight: float
    double_softmax: bool
    train_logit_scale: bool
    train_projection: bool


class OVRCOAT(FCCLIP):
    """FC-CLIP that trains its trunk with all losses."""

    teacher_prefix = "frozen_backbone."
    released_surplus = True  # a prompt learner

    def __init__(self, *, ovr: OvrLoss, **parts: Any) -> None:
        """Unfreeze the trunk; see `FCCLIP` for `parts`.

        Args:
            ovr: the loss on CLIP's class probabilities; no other loss reaches logit scale and
                projection, so that a weight of 0 freezes them.
            parts: the arguments of `FCCLIP`.
        """
        super().__init__(**parts)
        self.ovr = ovr
        self.backbone.unfreeze_trunk()
        clip = self.backbone.clip_model
        clip.logit_scale.requires_grad_(ovr.train_logit_scale and ovr.weight > 0)
        projection = getattr(clip.visual.head, "proj", None)  # of Base; Large has an MLP
        if projection is not None:
            projection.requires_grad_(ovr.train_projection and ovr.weight > 0)

    @classmethod
    def from_params(cls, params: Params, **parts: Any) -> OVRCOAT:
        """Build it from `params.model` and `params.train.ovr`; `parts` as in `Segmenter`."""
        if params.execution.gradient_checkpointing:
            parts["backbone"].checkpoint_trunk()
        ovr = OvrLoss(**params.train.ovr.model_dump())
        return super().from_params(params, ovr=ovr, **parts)  # type: ignore[return-value]

    @property
    def architecture(self) -> dict[str, Any]:
        """The name alone; its entries are those of FC-CLIP."""
        return {"model": "ovrcoat"}

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Train head and trunk together; see `Segmenter.losses`."""
        features = self.backbone(images)  # res2..res5, not detached
        outputs = self.sem_seg_head(features, text, rows, auxiliary=True)
        losses, pairs = self.criterion.with_matches(outputs, targets)
        if self.ovr.weight:
            logits = self._clip_logits(features["res5"], outputs.masks[:, -1], text, rows)
            loss = region_to_text_loss(
                logits, pairs, targets, double_softmax=self.ovr.double_softmax
            )
            losses["loss_oov_ce"] = self.ovr.weight * loss  # its name in the public code
        return losses
