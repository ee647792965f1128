"""Training samples of a label map that are scaled at random and cropped.

`SemanticCrop` is MaskCLIP++'s on COCO-Stuff (scale, crop, colours, flip), `SemanticJitter` the
large-scale jitter of Mask-Adapter on label maps. Both give one mask per class in the crop.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maftp.config import Params
from maftp.data.mapper import (
    CROP_FILL,
    crop_square,
    jittered_size,
    read_semantic_pair,
    resize_image,
    resize_label,
    resized_size,
    semantic_item,
)
from maftp.data.records import Record

IGNORED = 255


class SemanticCrop:
    """Random shorter side in tenths of the crop, crop of at most a square, colours, flip."""

    def __init__(
        self, *, crop_size: int, scale_range: tuple[float, float], max_side: int, flip: float
    ) -> None:
        """Take the crop's side and the longest side in pixels, the scales, and a probability."""
        first, last = (round(10 * scale) for scale in scale_range)
        self.short_sides = [int(0.1 * tenth * crop_size) for tenth in range(first, last + 1)]
        self.crop_size = crop_size
        self.max_side = max_side
        self.flip = flip

    @classmethod
    def from_params(cls, params: Params) -> SemanticCrop:
        """Build it from `input.train`."""
        train = params.input.train
        return cls(
            crop_size=train.crop_size,
            scale_range=train.scale_range,
            max_side=train.max_side,
            flip=train.flip,
        )

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Return a sample as `SemanticMapper` does, no larger than the crop.

        Raises:
            DataError: a file is missing or damaged, or the label's size is not the image's.
        """
        image, label = read_semantic_pair(record)
        short_side = self.short_sides[rng.integers(len(self.short_sides))]
        size = resized_size(*label.shape, short_side=short_side, max_side=self.max_side)
        top, left = (int(rng.integers(max(side - self.crop_size, 0) + 1)) for side in size)
        rows = slice(top, top + self.crop_size)
        columns = slice(left, left + self.crop_size)
        crop = change_colours(resize_image(image, *size)[rows, columns], rng)
        target = resize_label(label, *size)[rows, columns]
        if rng.random() < self.flip:
            crop, target = crop[:, ::-1], target.flip(1)
        return semantic_item(record, crop, image.shape, target, ignore_label=IGNORED)


class SemanticJitter:
    """Flip, large-scale jitter, and a square crop that is padded where the image is smaller."""

    def __init__(self, *, crop_size: int, scale_range: tuple[float, float], flip: float) -> None:
        """Take the crop's side in pixels, the range of scales and the probability of a flip."""
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.flip = flip

    @classmethod
    def from_params(cls, params: Params) -> SemanticJitter:
        """Build it from `input.train`."""
        train = params.input.train
        return cls(crop_size=train.crop_size, scale_range=train.scale_range, flip=train.flip)

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Return a sample as `SemanticMapper` does, as large as the crop.

        Raises:
            DataError: a file is missing or damaged, or the label's size is not the image's.
        """
        image, label = read_semantic_pair(record)
        flip = rng.random() < self.flip
        scale = rng.uniform(*self.scale_range)
        offset = rng.random()
        size = jittered_size(*label.shape, scale=scale, crop_size=self.crop_size)
        resized, target = resize_image(image, *size), resize_label(label, *size)
        if flip:
            resized, target = resized[:, ::-1], target.flip(1)
        crop = crop_square(resized, offset, size=self.crop_size, fill=CROP_FILL)
        labels = np.repeat(target.numpy()[..., None], 3, axis=2)
        cropped = crop_square(labels, offset, size=self.crop_size, fill=IGNORED)[..., 0]
        return semantic_item(
            record, crop, image.shape, torch.from_numpy(cropped.copy()), ignore_label=IGNORED
        )


def change_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue of an RGB image at random (SSD).

    Each with probability 1/2; contrast comes before or after saturation and hue.
    """
    image = _scaled(image, 1.0, rng.uniform(-32, 32)) if rng.random() < 0.5 else image
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 19)) if rng.random() < 0.5 else 0
    if contrast_first:
        image = _scaled(image, contrast, 0.0)
    if saturation != 1.0 or hue:
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _scaled(hsv[..., 1], saturation, 0.0)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _scaled(image, contrast, 0.0)


def _scaled(values: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    if (factor, shift) == (1.0, 0.0):
        return values
    return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)
