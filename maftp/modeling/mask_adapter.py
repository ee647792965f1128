"""Mask-Adapter (CVPR 2025): a small network decides where under a mask CLIP's features are pooled.

The forward pass is the method's figure: a frozen FC-CLIP or MAFT+ proposes masks; the adapter turns
each mask and CLIP's dense embedding into several attention maps; CLIP's features are pooled with
the maps instead of the binary mask, and the embeddings averaged. In the first phase ground-truth
masks train the adapter, in the second ground-truth masks together with proposals that match them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maftp.losses.batch_share import current_share
from maftp.losses.iou_matching import iou_pairs
from maftp.losses.mask_consistency import consistency_loss, slot_classification_loss
from maftp.modeling.content_dependent_transfer import ContentDependentTransfer, dense_tokens
from maftp.modeling.fcclip import ensemble_weights
from maftp.modeling.mask_classification import classify, geometric_ensemble
from maftp.modeling.postprocessing import resize_maps
from maftp.modeling.segmenter import Segmenter, Targets

if TYPE_CHECKING:
    from maftp.config import Params

Phase = Literal["warmup", "mixed"]
SLOTS = 32
"""Masks of an image in training; the second phase has half of them for ground truth alone."""
CHUNK = 64
"""Masks whose maps are computed at once at inference, for memory."""


class DecayedLayerNorm(nn.Module):
    """LayerNorm over the last axis that weight decay reaches, as in the public code."""

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        """Set the width and the floor of the variance."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (..., width)."""
        return F.layer_norm(values, self.weight.shape, self.weight, self.bias, self.eps)


class ChannelNorm(DecayedLayerNorm):
    """The same over the channels of maps (N, C, H, W)."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return super().forward(values.movedim(1, -1)).movedim(-1, 1)


class AdapterBlock(nn.Module):
    """ConvNeXt block without stochastic depth; names are those of released checkpoints."""

    def __init__(self, width: int) -> None:
        """Set the width."""
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = DecayedLayerNorm(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, maps: Tensor) -> Tensor:
        """Update maps (N, C, h, w)."""
        change = self.norm(self.dwconv(maps).movedim(1, -1))
        change = self.gamma * self.pwconv2(F.gelu(self.pwconv1(change)))
        return maps + change.movedim(-1, 1)


class MaskAdapter(nn.Module):
    """From a dense embedding and masks to attention maps."""

    def __init__(
        self, *, embed_dim: int, width: int, num_maps: int, mask_channels: int = 16
    ) -> None:
        """Set the widths of the embedding and of the blocks, and the maps per mask."""
        super().__init__()
        small = mask_channels // 4
        self.fuse = nn.Conv2d(embed_dim, width, 1)
        self.cnext1 = AdapterBlock(width)
        self.cnext2 = AdapterBlock(width)
        self.cnext3 = AdapterBlock(width)
        self.norm = nn.LayerNorm(width)  # the only one without decay
        self.final = nn.Conv2d(width, num_maps, 1)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, small, 3, stride=2, padding=1),
            ChannelNorm(small),
            nn.GELU(),
            nn.Conv2d(small, mask_channels, 3, stride=2, padding=1),
            ChannelNorm(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, 1),
        )

    def forward(self, dense: Tensor, masks: Tensor) -> Tensor:
        """Return the maps (B, N, M, h, w), before the sigmoid.

        Args:
            dense: (B, D, h, w).
            masks: (B, N, H, W) in [0, 1], of any size.
        """
        batch, count = masks.shape[:2]
        height, width = dense.shape[-2:]
        small = resize_maps(masks.flatten(0, 1), (4 * height, 4 * width))  # stride 8
        shapes = self.mask_downscaling(small[:, None]).unflatten(0, (batch, count))
        maps = self.fuse((dense[:, None] + shapes).flatten(0, 1))  # (B*N, C, h, w)
        for block in (self.cnext1, self.cnext2, self.cnext3):
            maps = block(maps)
        maps = self.norm(maps.movedim(1, -1)).movedim(-1, 1)
        return self.final(maps).unflatten(0, (batch, count))


def pool_with_maps(features: Tensor, maps: Tensor) -> Tensor:
    """Average features with each map's sigmoid, which is normalised to sum to one.

    Args:
        features: (B, C, h, w).
        maps: (B, N, M, h, w), before the sigmoid.

    Returns:
        (B, N, M, C).
    """
    weights = F.logsigmoid(maps.float().flatten(3)).softmax(-1)  # (B, N, M, h*w)
    return torch.einsum("bcp,bnmp->bnmc", features.flatten(2), weights.to(features.dtype))


@dataclass(frozen=True)
class AdapterRecipe:
    """What the training of the adapter does."""

    phase: Phase
    class_weight: float
    cosine_weight: float
    matching_cut: float
    detach_truth: bool
    train_void: bool


class AdaptedSegmenter(Segmenter):
    """A frozen FC-CLIP or MAFT+ whose masks are pooled with an adapter."""

    takes_proposals = True

    def __init__(
        self,
        *,
        adapter: MaskAdapter,
        cdt: ContentDependentTransfer | None,
        mask_cut: float,
        alpha: float,
        beta: float,
        recipe: AdapterRecipe,
        trust_weight: float = 0.0,
        **parts: Any,
    ) -> None:
        """Join the parts; all but the adapter, and the void embedding by the recipe, is frozen.

        Args:
            adapter: makes the attention maps.
            cdt: content-dependent transfer of a proposing MAFT+; None over an FC-CLIP.
            mask_cut: probability above which a pixel belongs to a mask.
            alpha: weight of CLIP for classes seen in training.
            beta: weight of CLIP for the others.
            recipe: of the training.
            trust_weight: of COAT, at inference.
            parts: the arguments of `Segmenter`.
        """
        super().__init__(criterion=None, **parts)
        self.cdt = cdt
        self.requires_grad_(False)
        self.mask_adapter = adapter
        self.void_embedding.requires_grad_(recipe.train_void)
        self.mask_cut = mask_cut
        self.alpha, self.beta = alpha, beta
        self.recipe = recipe
        self.trust_weight = trust_weight

    @classmethod
    def from_params(cls, params: Params, **parts: Any) -> AdaptedSegmenter:
        """Build it from `params.model.mask_adapter`; `parts` as in `Segmenter`."""
        own, recipe = params.model.mask_adapter, params.train.adapter
        embed_dim = parts["backbone"].embed_dim
        over_maftp = own.family == "maftp" and params.model.cdt.enabled
        alpha, beta = ensemble_weights(params)
        return cls(
            adapter=MaskAdapter(embed_dim=embed_dim, width=own.width, num_maps=own.maps),
            cdt=(
                ContentDependentTransfer.from_params(params, embed_dim=embed_dim)
                if over_maftp
                else None
            ),
            mask_cut=own.mask_cut,
            alpha=alpha,
            beta=beta,
            recipe=AdapterRecipe(class_weight=params.train.class_weight, **recipe.model_dump()),
            trust_weight=params.model.trust_weight,
            **{name: part for name, part in parts.items() if name != "criterion"},
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """Name and order of tokens; the transfer's form is free, as published scores mix them."""
        return {"model": "mask_adapter", "cdt_tokens": self.cdt and self.cdt.tokens}

    def losses(
        self, images: Tensor, text: Tensor, rows: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Train the adapter in its phase; see `Segmenter.losses`."""
        with torch.no_grad():
            features = self.backbone(images)
        dense = features["res5"]
        mixed = self.recipe.phase == "mixed"
        slots = SLOTS // 2 if mixed else SLOTS
        share = current_share(targets)
        draws = [_draws_of_image(share.first + index) for index in range(len(targets))]
        kept = [_without_empty(target) for target in targets]
        truth = [_slots(t, slots, draw) for t, draw in zip(kept, draws, strict=True)]
        masks = torch.stack([masks for masks, _ in truth])  # (B, slots, H, W)
        labels = torch.stack([labels for _, labels in truth])  # (B, slots)
        if mixed:
            more, their_labels = self._proposed(
                features, text, rows, kept, draws, images.shape[-2:]
            )
            masks = torch.cat([masks, more], dim=1)
            labels = torch.cat([labels, their_labels, their_labels], dim=1)
        embeddings = self._embed(dense, masks)  # (B, 32, D)
        logits = self._classify(embeddings, text, dense, rows)
        losses = {"loss_ce": self.recipe.class_weight * slot_classification_loss(logits, labels)}
        if mixed:
            found, true = embeddings[:, slots:].chunk(2, dim=1)
            loss = consistency_loss(found, true, detach_truth=self.recipe.detach_truth)
            losses["loss_cosine"] = self.recipe.cosine_weight * loss
        return losses

    @torch.no_grad()
    def _proposed(
        self,
        features: dict[str, Tensor],
        text: Tensor,
        rows: Tensor,
        targets: Targets,
        draws: Sequence[torch.Generator],
        size: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Return proposals and the masks they match, (B, 8 + 8, *size), and labels (B, 8)."""
        proposed = self.sem_seg_head(features, text, rows, auxiliary=False).masks[:, -1]
        masks, labels = [], []
        for logits, target, draw in zip(proposed, targets, draws, strict=True):
            pairs = iou_pairs(
                logits.float(),
                target["masks"],
                target["labels"],
                cut=self.recipe.matching_cut,
                count=SLOTS // 4,
                generator=draw,
            )
            masks.append(torch.cat([self._cut(pairs.predicted), pairs.truth]))
            labels.append(pairs.labels)
        whole = torch.stack(masks)  # (B, 16, h, w)
        large = resize_maps(whole.flatten(0, 1), tuple(size)).unflatten(0, whole.shape[:2])
        return large, torch.stack(labels)

    def scores(
        self, images: Tensor, text: Tensor, rows: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mix the head's and CLIP's class probabilities; see `Segmenter.scores`."""
        features = self.backbone(images)
        outputs = self.sem_seg_head(features, text, rows, auxiliary=False)
        dense, masks = features["res5"], outputs.masks[:, -1]
        embeddings = [self._embed(dense, self._cut(part)) for part in masks.split(CHUNK, dim=1)]
        scores = geometric_ensemble(
            outputs.logits[:, -1],
            self._classify(torch.cat(embeddings, dim=1), text, dense, rows),
            self.known_seen() if seen is None else seen,
            alpha=self.alpha,
            beta=self.beta,
            trust_weight=self.trust_weight,
        )
        return scores, masks

    def _cut(self, mask_logits: Tensor) -> Tensor:
        """Return binary masks as numbers."""
        return (mask_logits.float().sigmoid() > self.mask_cut).float()

    def _embed(self, dense: Tensor, masks: Tensor) -> Tensor:
        """Embed what lies under masks (B, N, H, W): the mean over the maps, (B, N, D)."""
        maps = self.mask_adapter(self._adapter_input(dense), masks)  # (B, N, M, h, w)
        return self.backbone.visual_head(pool_with_maps(dense, maps)).mean(2)

    def _adapter_input(self, dense: Tensor) -> Tensor:
        """Return CLIP's embedding of every pixel, (B, D, h, w).

        Over MAFT+ it is the order of the transfer's tokens: released ones are chunks across
        channels, although masks and pooling are spatial.
        """
        order = "spatial" if self.cdt is None else self.cdt.tokens
        with torch.no_grad():
            tokens = self.backbone.visual_head(dense_tokens(dense, order=order))  # (B, h*w, D)
        return tokens.transpose(1, 2).unflatten(2, dense.shape[-2:])

    def _classify(self, embeddings: Tensor, text: Tensor, dense: Tensor, rows: Tensor) -> Tensor:
        """Compare embeddings (B, N, D) with the text, (B, N, K + 1)."""
        if self.cdt is not None:
            text = self.cdt(text, dense, self.backbone.visual_head)
        return classify(embeddings, text, self.backbone.logit_scale, rows)


def _draws_of_image(index: int) -> torch.Generator:
    """Return random numbers of the image `index` of a batch, however the batch is cut."""
    return torch.Generator().manual_seed(torch.initial_seed() % 2**62 + index)


def _without_empty(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out ground-truth masks without a pixel."""
    kept = target["masks"].flatten(1).any(1)
    return {"labels": target["labels"][kept], "masks": target["masks"][kept]}


def _slots(
    target: dict[str, Tensor], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return `count` masks (count, H, W) and labels: drawn ones, or filled up with empty ones."""
    masks, labels = target["masks"], target["labels"]
    if len(labels) > count:
        chosen = torch.randperm(len(labels), generator=generator)[:count].to(labels.device)
        masks, labels = masks[chosen], labels[chosen]
    missing = count - len(labels)
    filled = F.pad(masks.float(), (0, 0, 0, 0, 0, missing))
    return filled, F.pad(labels, (0, missing), value=-1)
