"""The recipe spelled out plainly, as the method's public code is built: what ours is measured by.

`textbook_step` and `textbook_evaluation` put plain forms of some functions in place of ours while
they are active, on the same model with the same weights. They are written from the description of
the method and its costs:

- the student runs twice in a training step: once for the segmentation head, whose features are
  detached afterwards, and once for the losses of CLIP;
- deformable attention keeps the samples of all levels;
- a class takes the best of its names in a Python loop over the classes;
- every prediction call turns the ground-truth masks into numbers anew, for matching and for the
  losses, and every image's costs are brought to the host on their own;
- attention returns its weights, which nobody reads;
- the mask-aware loss resizes all masks to full size for every ground-truth mask;
- evaluation makes the scores of all classes at every pixel, all class logits of the decoder, and
  resizes the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maftp.losses.criterion import SetCriterion, count_masks, dice_loss, mask_loss
from maftp.losses.matcher import pairwise_dice_cost
from maftp.losses.point_sampling import sample_points
from maftp.modeling import maft_plus, pixel_decoder, segmenter, transformer_decoder
from maftp.modeling.content_dependent_transfer import TextImageAttention
from maftp.modeling.maft_plus import MaftPlus
from maftp.modeling.transformer_decoder import (
    CrossAttentionLayer,
    SelfAttentionLayer,
    TransformerDecoder,
)


@contextmanager
def textbook_step() -> Iterator[None]:
    """Compute training steps the plain way."""
    with _replaced(
        (pixel_decoder, "ms_deform_attn", deformable_attention),
        (transformer_decoder, "classify", classify),
        (maft_plus, "classify", classify),
        (maft_plus, "mask_aware_loss", mask_aware_loss),
        (MaftPlus, "_head_features", second_pass),
        (SetCriterion, "forward", criterion),
        *_ATTENTION,
    ):
        yield


@contextmanager
def textbook_evaluation() -> Iterator[None]:
    """Compute results of images the plain way."""
    decode = TransformerDecoder.forward

    def with_all_logits(decoder: TransformerDecoder, *args: Any, **options: Any) -> Any:
        outputs = decode(decoder, *args, **options | {"auxiliary": True})
        return {name: outputs[name] for name in ("pred_logits", "pred_masks")}

    with _replaced(
        (pixel_decoder, "ms_deform_attn", deformable_attention),
        (transformer_decoder, "classify", classify),
        (maft_plus, "classify", classify),
        (TransformerDecoder, "forward", with_all_logits),
        (segmenter, "label_map", label_map),
        *_ATTENTION,
    ):
        yield


@contextmanager
def _replaced(*replacements: tuple[Any, str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, plain in replacements:
            stack.enter_context(mock.patch.object(owner, name, plain))
        yield


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sample all levels, stack the samples, weigh and add them up."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    grids = 2 * locations - 1
    samples = []
    for level, part in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        image = part.flatten(2).transpose(1, 2).reshape(batch * heads, channels, *shapes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*M, Q, P, 2)
        samples.append(
            F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        )  # (B*M, C, Q, P)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    output = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)  # (B*M, C, Q)
    return output.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def classify(embeddings: Tensor, text: Tensor, logit_scale: Tensor, rows: Tensor) -> Tensor:
    """Take the best name of every class, class by class."""
    scale = logit_scale.exp().clamp(max=100.0)
    logits = scale * (F.normalize(embeddings, dim=-1) @ text.transpose(-2, -1))
    columns = [logits[..., own[0] : own[-1] + 1].max(-1).values for own in rows.tolist()]
    columns.append(logits[..., -1])
    return torch.stack(columns, dim=-1)


def mask_aware_loss(
    clip_logits: Tensor, mask_logits: Tensor, targets: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Compute every IoU from masks at full size, (G, Q, H, W) of them."""
    probabilities = clip_logits[..., :-1].softmax(-1)
    errors = []
    for image, target in enumerate(targets):
        wanted = target["masks"].float()
        masks = F.interpolate(
            mask_logits[image, None].sigmoid(), size=wanted.shape[-2:], mode="bilinear",
            align_corners=False,
        )[0]  # fmt: skip
        masks = masks[None].repeat(len(wanted), 1, 1, 1)  # (G, Q, H, W)
        overlap = (masks * wanted[:, None]).flatten(2).sum(-1)  # (G, Q)
        union = wanted.flatten(1).sum(-1)[:, None] + masks.flatten(2).sum(-1) - overlap
        iou = overlap / (union + 1e-7)
        low, high = iou.min(1, keepdim=True).values, iou.max(1, keepdim=True).values
        quality = (iou - low) / (high - low + 1e-8)
        errors.append((probabilities[image][:, target["labels"]].T - quality).flatten())
    error = torch.cat(errors)
    return F.smooth_l1_loss(error, torch.zeros_like(error))


def second_pass(model: MaftPlus, features: Mapping[str, Tensor], images: Tensor) -> dict:
    """Run the student once more for the segmentation head, and detach afterwards."""
    return {name: feature.detach() for name, feature in model.backbone(images).items()}


def criterion(
    self: SetCriterion, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Match and compare each prediction call on its own."""
    num_masks = count_masks(targets, device=outputs["pred_masks"].device)
    losses = _losses_of_call(self, outputs, targets, num_masks)
    for index, auxiliary in enumerate(outputs["aux_outputs"]):
        for name, loss in _losses_of_call(self, auxiliary, targets, num_masks).items():
            losses[f"{name}_{index}"] = loss
    return losses


def _losses_of_call(
    self: SetCriterion,
    outputs: Mapping[str, Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    num_masks: Tensor,
) -> dict[str, Tensor]:
    logits, masks = outputs["pred_logits"], outputs["pred_masks"]
    matches = [
        _match(self, logits[image], masks[image], target) for image, target in enumerate(targets)
    ]
    classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
    for image, (queries, chosen) in enumerate(matches):
        classes[image, queries] = targets[image]["labels"][chosen]
    loss_ce = F.cross_entropy(logits.float().transpose(1, 2), classes, self.empty_weight)

    predicted = torch.cat([masks[image][q] for image, (q, _) in enumerate(matches)])[:, None]
    wanted = torch.cat([targets[image]["masks"].float()[g] for image, (_, g) in enumerate(matches)])
    points = _uncertain_points(self, predicted.detach())
    labels = sample_points(wanted[:, None], points).squeeze(1)
    values = sample_points(predicted, points).squeeze(1)
    return {
        "loss_ce": self.class_weight * loss_ce,
        "loss_mask": self.mask_weight * mask_loss(values, labels, num_masks),
        "loss_dice": self.dice_weight * dice_loss(values, labels, num_masks),
    }


def _uncertain_points(self: SetCriterion, predicted: Tensor) -> Tensor:
    """Choose points (N, P, 2) of masks (N, 1, h, w): the most uncertain of many, and others."""
    count, drawn = len(predicted), int(self.oversample_ratio * self.num_points)
    kept = int(self.importance_sample_ratio * self.num_points)
    candidates = torch.rand(count, drawn, 2, device=predicted.device)
    values = sample_points(predicted, candidates).squeeze(1)  # (N, C)
    index = (-values.abs()).topk(kept, dim=1).indices
    uncertain = torch.stack([place[row] for place, row in zip(candidates, index, strict=True)])
    others = torch.rand(count, self.num_points - kept, 2, device=predicted.device)
    return torch.cat([uncertain, others], dim=1)


@torch.no_grad()
def _match(
    self: SetCriterion, logits: Tensor, masks: Tensor, target: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    matcher = self.matcher
    points = torch.rand(1, matcher.num_points, 2, device=masks.device)
    wanted = target["masks"].float()[:, None]
    labels = sample_points(wanted, points.repeat(len(wanted), 1, 1)).squeeze(1)  # (G, P)
    values = sample_points(masks[:, None], points.repeat(len(masks), 1, 1)).squeeze(1)  # (Q, P)
    positive = F.binary_cross_entropy_with_logits(values, torch.ones_like(values), reduction="none")
    negative = F.binary_cross_entropy_with_logits(
        values, torch.zeros_like(values), reduction="none"
    )
    mask_cost = (positive @ labels.T + negative @ (1 - labels).T) / values.shape[1]
    cost = (
        matcher.mask_weight * mask_cost
        + matcher.class_weight * -logits.softmax(-1)[:, target["labels"]]
        + matcher.dice_weight * pairwise_dice_cost(values, labels)
    )
    queries, chosen = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries), torch.as_tensor(chosen)


def label_map(scores: Tensor, masks: Tensor, frame: Any, *, masks_first: bool) -> Tensor:
    """Return the best class of whole scores, (K, H, W)."""
    masks = frame.upsample(masks)
    probabilities = scores.softmax(-1)[:, :-1]
    if masks_first:
        masks = frame.fit(masks)
    semantic = torch.einsum("qk,qhw->khw", probabilities, masks.sigmoid())
    return (semantic if masks_first else frame.fit(semantic)).argmax(0)


def cross_attention(
    self: CrossAttentionLayer,
    output: Tensor,
    query_position: Tensor,
    memory: Tensor,
    position: Tensor,
    mask: Tensor,
) -> Tensor:
    """Attend with weights averaged over heads and returned."""
    attended, _ = self.multihead_attn(
        output + query_position, memory + position, memory, attn_mask=mask, need_weights=True
    )
    return self.norm(output + attended)


def self_attention(self: SelfAttentionLayer, output: Tensor, query_position: Tensor) -> Tensor:
    """Attend with weights averaged over heads and returned."""
    query = output + query_position
    attended, _ = self.self_attn(query, query, output, need_weights=True)
    return self.norm(output + attended)


def transfer(self: TextImageAttention, text: Tensor, tokens: Tensor, code: Tensor) -> Tensor:
    """Attend with weights averaged over heads and returned."""
    attended, _ = self.multihead_attn(text, tokens + code, tokens, need_weights=True)
    change = self.MLP(attended)
    return self.norm(text + change) if self.form == "semantic" else text + self.norm(change)


_ATTENTION = (
    (CrossAttentionLayer, "forward", cross_attention),
    (SelfAttentionLayer, "forward", self_attention),
    (TextImageAttention, "forward", transfer),
)
