"""MaskCLIP++ (2024): a second CLIP, tuned on ground-truth masks, names the masks of a frozen model.

The forward pass is the method's figure: a frozen MAFT+ or FC-CLIP proposes masks; the student CLIP
sees the image at a size of its own, pools its features under the soft masks, and lets the text
embeddings attend to the image (PSM); mask and text embeddings are compared. Classes are those of
the student, for seen ones mixed with the head's; void is the head's. In training ground-truth masks
take the place of proposals.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor, nn

from maftp.losses.balanced_masks import balanced_mask_loss
from maftp.losses.batch_share import current_share
from maftp.modeling.clip_backbone import joint_embedding, trunk_features
from maftp.modeling.content_dependent_transfer import dense_tokens
from maftp.modeling.fcclip import ensemble_weights
from maftp.modeling.mask_classification import (
    best_rows,
    class_scores,
    geometric_ensemble,
    soft_pool,
)
from maftp.modeling.postprocessing import Frame, resize_maps
from maftp.modeling.segmenter import (
    SIZE_DIVISIBILITY,
    BatchedInputs,
    Segmenter,
    Targets,
)

if TYPE_CHECKING:
    from maftp.config import Params

POOLING_FLOOR = 1e-6


class StudentEncoder(nn.Module):
    """The visual tower of a CLIP, all of it trained; evaluation mode as `ClipBackbone` keeps it."""

    def __init__(self, visual: nn.Module, *, stochastic_depth: bool) -> None:
        """Take over the tower."""
        super().__init__()
        self.proxy = visual  # its name in released checkpoints
        self.stochastic_depth = stochastic_depth
        self.requires_grad_(True)
        self.train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute res2..res5 of images (B, 3, H, W)."""
        return trunk_features(self.proxy, images)

    def visual_head(self, features: Tensor) -> Tensor:
        """Map features (..., C5) to the joint space (..., D), not normalised."""
        return joint_embedding(self.proxy, features)

    def train(self, mode: bool = True) -> StudentEncoder:
        """Keep evaluation mode, except for the trunk's when stochastic depth is asked for."""
        super().train(False)
        if self.stochastic_depth:
            self.proxy.trunk.train(mode)
        return self


class ImageConditionedText(nn.Module):
    """PSM: text rows attend to the image's dense embeddings, with a residual and a LayerNorm."""

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float) -> None:
        """Set width, heads, and the dropout of attention in training."""
        super().__init__()
        self.img_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.img2text = nn.MultiheadAttention(
            embed_dim, num_heads, dropout=dropout, batch_first=True
        )
        self.ln_1 = nn.LayerNorm(embed_dim)

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Return text (S, D), unit rows, for each image, (B, S, D) and not normalised again.

        Args:
            text: (S, D).
            tokens: (B, N, D), dense embeddings; those of the padding are attended to as well.
        """
        image = self.img_proj(F.normalize(tokens, dim=-1))
        text = text.expand(len(tokens), -1, -1)
        change, _ = self.img2text(query=text, key=image, value=image, need_weights=False)
        return self.ln_1(text + change)


class MaskCLIPpp(Segmenter):
    """A student CLIP over the masks of a frozen segmenter, which is `backbone` and `sem_seg_head`.

    Student and proposals share one text tower, so they are of one kind of CLIP.
    """

    trunk_prefix = "visual_encoder."
    released_parts = ("visual_encoder.", "psm.")
    takes_proposals = True
    mask_kind = "probabilities"
    exportable = False

    def __init__(
        self,
        *,
        visual_encoder: nn.Module,
        psm: nn.Module,
        student_short_side: int,
        proposal_short_side: int,
        alpha: float | None,
        beta: float | None,
        trust_weight: float = 0.0,
        **parts: Any,
    ) -> None:
        """Join the parts.

        Args:
            visual_encoder: the student's visual tower.
            psm: conditions the text on the image.
            student_short_side: shorter side of the student's input at inference.
            proposal_short_side: shorter side of the proposing network's.
            alpha: weight of the student for seen classes; None leaves the head's classes out.
            beta: weight of the student for the others.
            trust_weight: of COAT, at inference.
            parts: the arguments of `Segmenter`.
        """
        super().__init__(criterion=None, **parts)
        for proposing in (self.sem_seg_head, self.void_embedding):
            proposing.requires_grad_(False)
        self.visual_encoder = visual_encoder
        self.psm = psm
        self.student_short_side = student_short_side
        self.proposal_short_side = proposal_short_side
        self.alpha, self.beta = alpha, beta
        self.trust_weight = trust_weight

    @classmethod
    def from_params(cls, params: Params, **parts: Any) -> MaskCLIPpp:
        """Build it from `params.model.maskclippp`; `parts` as in `Segmenter`.

        The student starts as a copy of the backbone's visual tower, which is CLIP's at this time.
        """
        backbone, own = parts["backbone"], params.model.maskclippp
        student = StudentEncoder(
            copy.deepcopy(backbone.clip_model.visual),
            stochastic_depth=params.clip.stochastic_depth,
        )
        if params.execution.gradient_checkpointing:
            student.proxy.trunk.set_grad_checkpointing(True)
        psm = ImageConditionedText(
            embed_dim=backbone.embed_dim, num_heads=own.num_heads, dropout=own.attention_dropout
        )
        return cls(visual_encoder=student, psm=psm, **naming_parts(params, parts))

    @property
    def architecture(self) -> dict[str, Any]:
        """The name alone; sizes and the ensemble's weights are free at inference."""
        return {"model": "maskclippp"}

    @property
    def naming_clip(self) -> nn.Module:
        """The student."""
        return self.visual_encoder

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Name the ground-truth masks; see `Segmenter.losses`."""
        dense, tokens = self._see(images)
        chosen = text[draw_synonyms(rows)]  # (K, D)
        adapted = self.psm(chosen, tokens)  # (B, K, D)
        size = tuple(dense.shape[-2:])
        logits = []
        for index, target in enumerate(targets):
            masks = resize_maps(target["masks"].float(), size)[None]  # (1, G, h, w)
            logits.append(self._compare(dense[index : index + 1], masks, adapted[index]))
        labels = [target["labels"] for target in targets]
        loss = balanced_mask_loss([image[0] for image in logits], labels, current_share(targets))
        return {"loss_ce": loss}

    def proposals(
        self, batched_inputs: BatchedInputs, images: ImageList, text: Tensor, rows: Tensor
    ) -> tuple[BatchedInputs, ImageList, Tensor, Tensor]:
        """See `Segmenter.proposals`: each network resizes the normalised images for itself."""
        proposing = _resized(images, self.proposal_short_side, SIZE_DIVISIBILITY)
        features = self.backbone(proposing.tensor)
        outputs = self.sem_seg_head(features, text, rows, auxiliary=False)
        masks = outputs.masks[:, -1].sigmoid()  # (B, Q, h, w), on the proposing canvas / 4
        student = _resized(images, self.student_short_side, self.size_divisibility)
        logits = self.name_masks(masks, proposing, student, text, rows)
        scores = self._scores(outputs.logits[:, -1], logits)
        sized = [
            {"height": size[0], "width": size[1], **item}
            for item, size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        return sized, proposing, scores, masks

    def name_masks(
        self, masks: Tensor, proposing: ImageList, student: ImageList, text: Tensor, rows: Tensor
    ) -> Tensor:
        """Compare what the student sees under each mask with the classes, (B, Q, K).

        Args:
            masks: (B, Q, h, w) probabilities on the canvas of `proposing`.
            proposing: images as the proposing network saw them.
            student: images as the student sees them.
            text: (S + 1, D), void last, which is left out.
            rows: (K, n), the rows of each class.
        """
        dense, tokens = self._see(student.tensor)
        weights = torch.stack(list(student_masks(masks, proposing, student, dense.shape[-2:])))
        synonyms = self._compare(dense, weights, self.psm(text[:-1], tokens))  # (B, Q, S)
        return best_rows(synonyms, rows)

    def _see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's dense features and its embedding of every pixel, (B, N, D)."""
        dense = self.visual_encoder(images)["res5"]  # (B, C5, H/32, W/32)
        return dense, self.visual_encoder.visual_head(dense_tokens(dense, order="spatial"))

    def _compare(self, dense: Tensor, weights: Tensor, text: Tensor) -> Tensor:
        """Compare pooled features with text of the image, (B, Q, S); no logit scale is applied."""
        pooled = soft_pool(dense, weights, floor=POOLING_FLOOR)  # (B, Q, C5)
        embeddings = self.visual_encoder.visual_head(pooled)  # (B, Q, D)
        return F.normalize(embeddings, dim=-1) @ text.transpose(-2, -1)

    def _scores(self, head_logits: Tensor, logits: Tensor) -> Tensor:
        """Return log scores (B, Q, K + 1) of the head's and the student's logits (B, Q, K)."""
        with_void = F.pad(logits, (0, 1))  # a column that is not read
        if self.alpha is None or self.beta is None:
            return class_scores(head_logits, with_void, trust_weight=self.trust_weight)
        return geometric_ensemble(
            head_logits,
            with_void,
            self.known_seen(),
            alpha=self.alpha,
            beta=self.beta,
            trust_weight=self.trust_weight,
            floored=True,
        )


def naming_parts(params: Params, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that do not depend on the student."""
    own = params.model.maskclippp
    alone = params.model.ensemble == "clip"
    alpha, beta = (None, None) if alone else ensemble_weights(params)
    return {
        "student_short_side": own.student_short_side,
        "proposal_short_side": own.proposal_short_side,
        "alpha": alpha,
        "beta": beta,
        "trust_weight": params.model.trust_weight,
        **{name: part for name, part in parts.items() if name != "criterion"},
    }


def draw_synonyms(rows: Tensor) -> Tensor:
    """Draw a row of the text for each class: one of its synonyms, (K,) of rows (K, n)."""
    counts = 1 + (rows[:, 1:] != rows[:, :-1]).sum(1)  # a class with fewer repeats its last
    drawn = (torch.rand(len(rows), device=rows.device) * counts).long()
    return rows.gather(1, drawn[:, None])[:, 0]


def shorter_side_to(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return (height, width) with a given shorter side; the longer is cut to whole pixels."""
    height, width = size
    if height < width:
        return short_side, int(width * short_side / height)
    return int(height * short_side / width), short_side


def _resized(images: ImageList, short_side: int, divisibility: int) -> ImageList:
    """Resize normalised images, without antialiasing as the public code, and pad them anew."""
    found = [
        resize_maps(image, shorter_side_to(tuple(image.shape[-2:]), short_side)) for image in images
    ]
    return ImageList.from_tensors(found, size_divisibility=divisibility)


def student_masks(
    masks: Tensor, proposing: ImageList, student: ImageList, size: Sequence[int]
) -> Iterator[Tensor]:
    """Yield each image's masks (Q, *size) on the student's padded canvas at stride 32."""
    canvas = student.tensor.shape[-2:]
    for image, (before, after) in enumerate(
        zip(proposing.image_sizes, student.image_sizes, strict=True)
    ):
        frame = Frame(tuple(proposing.tensor.shape[-2:]), tuple(before), tuple(after))
        fitted = frame.fit(frame.upsample(masks[image]))
        padding = (0, canvas[1] - after[1], 0, canvas[0] - after[0])
        yield resize_maps(F.pad(fitted, padding), tuple(size))
