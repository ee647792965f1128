"""The recipe spelled out plainly, as the method's public code is built: what ours is measured by.

`textbook_step` and `textbook_evaluation` put plain forms of some functions in place of ours while
they are active, on the same model with the same weights. They are written from the description of
the method and its costs:

- the student runs twice in a training step: once for the segmentation head, whose features are
  detached afterwards, and once for the losses of CLIP;
- CLIP's blocks are timm's own, and autocast casts their weights one by one;
- deformable attention keeps the samples of all levels, and works along the axes of the formula;
- a class takes the best of its names in a Python loop over the classes;
- every prediction call of the decoder makes its masks and class logits on its own, at full size and
  with gradients to all of them, and layers look where those masks, resized, are positive;
- every prediction call turns the ground-truth masks into numbers anew, for matching and for the
  losses, and every image's costs are brought to the host on their own;
- attention gets a mask for every head, and returns its weights, which nobody reads;
- the mask-aware loss resizes all masks to full size for every ground-truth mask;
- evaluation makes the scores of all classes at every pixel, all class logits of the decoder, and
  resizes the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor
from torch.nn import MultiheadAttention

from maftp.losses.criterion import SetCriterion, count_masks, dice_loss, mask_loss
from maftp.losses.matcher import pairwise_dice_cost
from maftp.losses.point_sampling import sample_points
from maftp.losses.predictions import Predictions
from maftp.losses.representation_compensation import _descriptor
from maftp.modeling import clip_backbone, maft_plus, segmenter, transformer_decoder
from maftp.modeling.content_dependent_transfer import TextImageAttention
from maftp.modeling.convnext import ScaledResidualBlock
from maftp.modeling.maft_plus import MaftPlus
from maftp.modeling.mask_classification import mask_pool
from maftp.modeling.pixel_decoder import DeformableAttention
from maftp.modeling.position_encoding import sine_encoding
from maftp.modeling.postprocessing import MaskKind, mask_probabilities
from maftp.modeling.transformer_decoder import (
    NUM_LEVELS,
    CrossAttentionLayer,
    SelfAttentionLayer,
    TransformerDecoder,
)


@contextmanager
def textbook_step() -> Iterator[None]:
    """Compute training steps the plain way."""
    with _replaced(
        *_TRUNK_AND_ENCODER,
        (transformer_decoder, "classify", classify),
        (maft_plus, "classify", classify),
        (maft_plus, "mask_aware_loss", mask_aware_loss),
        (maft_plus, "representation_compensation_loss", representation_compensation_loss),
        (TransformerDecoder, "forward", decode),
        (MaftPlus, "_head_features", second_pass),
        (SetCriterion, "forward", criterion),
        *_ATTENTION,
    ):
        yield


@contextmanager
def textbook_evaluation() -> Iterator[None]:
    """Compute results of images the plain way."""
    with _replaced(
        *_TRUNK_AND_ENCODER,
        (transformer_decoder, "classify", classify),
        (maft_plus, "classify", classify),
        (TransformerDecoder, "forward", decode),
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


def encoder_attention(
    self: DeformableAttention,
    query: Tensor,
    centres: Tensor,
    tokens: Tensor,
    shapes: Sequence[tuple[int, int]],
) -> Tensor:
    """Divide offsets by sizes and normalise weights as the formula says."""
    heads, levels, points = self.num_heads, len(shapes), self.num_points
    value = self.value_proj(tokens).unflatten(-1, (heads, -1))
    offsets = self.sampling_offsets(query).unflatten(-1, (heads, levels, points, 2))
    weights = self.attention_weights(query).unflatten(-1, (heads, levels * points)).softmax(-1)
    sizes = torch.tensor([(width, height) for height, width in shapes], device=query.device)
    locations = centres[:, None, None, None, :2] + offsets / sizes[:, None]
    weights = weights.unflatten(-1, (levels, points))
    return self.output_proj(deformable_attention(value, shapes, locations, weights))


def representation_compensation_loss(
    student: Tensor, teacher: Tensor, *, scales: Sequence[int]
) -> Tensor:
    """Describe both maps and compare the descriptions."""
    described = [_descriptor(features.clamp(min=0), scales) for features in (student, teacher)]
    return F.smooth_l1_loss(*described)


def classify(embeddings: Tensor, text: Tensor, logit_scale: Tensor, rows: Tensor) -> Tensor:
    """Take the best name of every class, class by class."""
    scale = logit_scale.exp().clamp(max=100.0)
    logits = scale * (F.normalize(embeddings, dim=-1) @ text.transpose(-2, -1))
    columns = [logits[..., own[0] : own[-1] + 1].max(-1).values for own in rows.tolist()]
    columns.append(logits[..., -1])
    return torch.stack(columns, dim=-1)


class Calls:
    """Tensors (B, ...) of the prediction calls, read as if they were one of (B, L, ...)."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, place: tuple[slice, int]) -> Tensor:
        images, call = place
        return self.tensors[call][images]


def decode(
    self: TransformerDecoder,
    mask_features: Tensor,
    memory: Sequence[Tensor],
    text: Tensor,
    rows: Tensor,
    *,
    auxiliary: bool,
) -> Predictions:
    """Predict masks and classes before the first layer and after each, whoever needs them."""
    tokens, positions = [], []
    for level, feature in enumerate(memory):
        channels, height, width = feature.shape[1:]
        tokens.append(feature.flatten(2).transpose(1, 2) + self.level_embed.weight[level])
        positions.append(sine_encoding(height, width, channels, device=feature.device))
    output = self.query_feat.weight.expand(len(mask_features), -1, -1)
    calls = [_predict(self, output, mask_features, text, rows)]
    for index, (attend, interact, transform) in enumerate(self._layers()):
        level = index % NUM_LEVELS
        size = memory[level].shape[-2:]
        masks = F.interpolate(calls[-1][1], size=size, mode="bilinear", align_corners=False)
        blocked = (masks.sigmoid().flatten(2) < 0.5).detach()
        blocked[blocked.all(-1)] = False
        blocked = blocked.repeat_interleave(self.num_heads, dim=0)
        output = attend(output, self.query_embed.weight, tokens[level], positions[level], blocked)
        output = transform(interact(output, self.query_embed.weight))
        calls.append(_predict(self, output, mask_features, text, rows))
    logits, masks = (Calls(tensors) for tensors in zip(*calls, strict=True))
    return Predictions(logits=logits, masks=masks, embeddings=None, features=mask_features)  # type: ignore[arg-type]


def _predict(
    self: TransformerDecoder, output: Tensor, mask_features: Tensor, text: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return class logits and masks of one call."""
    output = self.decoder_norm(output)
    masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(output), mask_features)
    pooled = self._mask_pooling_proj(mask_pool(mask_features, masks))
    logits = transformer_decoder.classify(
        self.class_embed(pooled + output), text, self.logit_scale, rows
    )
    return logits, masks


def mask_aware_loss(
    clip_logits: Tensor, mask_logits: Tensor, targets: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Compute every IoU from masks at full size, (G, Q, H, W) of them."""
    probabilities = clip_logits[..., :-1].softmax(-1)
    errors = []
    for image, target in enumerate(targets):
        wanted = target["masks"].float()
        masks = F.interpolate(
            mask_logits[image, None].detach().sigmoid(), size=wanted.shape[-2:], mode="bilinear",
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
    self: SetCriterion, predictions: Predictions, targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Match and compare each prediction call on its own."""
    num_masks = count_masks(targets)
    calls = list(zip(predictions.logits.tensors, predictions.masks.tensors, strict=True))
    losses = _losses_of_call(self, *calls[-1], targets, num_masks)
    for index, call in enumerate(calls[:-1]):
        for name, loss in _losses_of_call(self, *call, targets, num_masks).items():
            losses[f"{name}_{index}"] = loss
    return losses


def _losses_of_call(
    self: SetCriterion,
    logits: Tensor,
    masks: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    num_masks: float,
) -> dict[str, Tensor]:
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


def label_map(
    scores: Tensor, masks: Tensor, frame: Any, *, masks_first: bool, kind: MaskKind = "logits"
) -> Tensor:
    """Return the best class of whole scores, (K, H, W)."""
    masks = frame.upsample(masks)
    probabilities = scores.softmax(-1)[:, :-1]
    if masks_first:
        masks = frame.fit(masks)
    semantic = torch.einsum("qk,qhw->khw", probabilities, mask_probabilities(masks, kind))
    return (semantic if masks_first else frame.fit(semantic)).argmax(0)


def _attend(
    attention: MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    return MultiheadAttention.forward(
        attention, query, key, value, attn_mask=mask, need_weights=True
    )[0]


def cross_attention(
    self: CrossAttentionLayer,
    output: Tensor,
    query_position: Tensor,
    memory: Tensor,
    position: Tensor,
    mask: Tensor,
) -> Tensor:
    """Attend with weights averaged over heads and returned."""
    attended = _attend(
        self.multihead_attn, output + query_position, memory + position, memory, mask
    )
    return self.norm(output + attended)


def self_attention(self: SelfAttentionLayer, output: Tensor, query_position: Tensor) -> Tensor:
    """Attend with weights averaged over heads and returned."""
    query = output + query_position
    return self.norm(output + _attend(self.self_attn, query, query, output))


def transfer(self: TextImageAttention, text: Tensor, tokens: Tensor, code: Tensor) -> Tensor:
    """Attend with weights averaged over heads and returned."""
    change = self.MLP(_attend(self.multihead_attn, text, tokens + code, tokens))
    return self.norm(text + change) if self.form == "semantic" else text + self.norm(change)


_TRUNK_AND_ENCODER = (
    (ScaledResidualBlock, "forward", ConvNeXtBlock.forward),
    (clip_backbone, "cast_at_once", lambda *_: nullcontext()),
    (DeformableAttention, "forward", encoder_attention),
)
_ATTENTION = (
    (CrossAttentionLayer, "forward", cross_attention),
    (SelfAttentionLayer, "forward", self_attention),
    (TextImageAttention, "forward", transfer),
)
