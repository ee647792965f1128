"""Models and images of the benchmarks: the paper's sizes, random weights, drawn ground truth."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from maftp.api import experiment_params
from maftp.modeling.build import build_model
from maftp.modeling.segmenter import Segmenter
from maftp.modeling.text_classifier import TextEmbeddings


def model_of(experiment: str, *, num_classes: int, training: bool) -> Segmenter:
    """Build a model with random weights; its text embeddings are random too."""
    torch.manual_seed(0)
    params = experiment_params(experiment)
    model = build_model(params, num_training_classes=num_classes, load_clip=None, teacher=training)
    model.set_training_vocabulary(*vocabulary(num_classes, model.backbone.embed_dim))
    return model.train(training)


def vocabulary(num_classes: int, width: int) -> tuple[list[str], TextEmbeddings]:
    """Return names with two synonyms each, and random unit rows for them."""
    names = [f"thing {index},object {index}" for index in range(num_classes)]
    generator = torch.Generator().manual_seed(1)
    rows = F.normalize(torch.randn(2 * num_classes, width, generator=generator), dim=-1)
    return names, TextEmbeddings(weight=rows, num_synonyms=(2,) * num_classes, names=tuple(names))


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """Draw a smooth random picture, (3, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16, width // 16, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return (smooth[0] * 255).to(torch.uint8)


def training_item(
    height: int, width: int, *, num_masks: int, num_classes: int, seed: int = 0
) -> dict[str, Any]:
    """Return an image whose ground truth are `num_masks` rectangles side by side."""
    instances = Instances((height, width))
    instances.gt_classes = torch.arange(num_masks) * 7 % num_classes
    edges = torch.linspace(0, width, num_masks + 1).round().int().tolist()
    masks = torch.zeros(num_masks, height, width, dtype=torch.bool)
    for mask, left, right in zip(masks, edges[:-1], edges[1:], strict=True):
        mask[height // 8 :, left:right] = True
    instances.gt_masks = masks
    return {"image": image(height, width, seed), "instances": instances}
