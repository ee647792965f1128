"""Resizing of images and label maps, by the rules that the published numbers rest on."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image


def resized_size(height: int, width: int, *, short_side: int, max_side: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side `short_side`, the longer at most `max_side`.

    A strip so thin that its shorter side would vanish keeps one pixel of it.
    """
    resized = ResizeShortestEdge.get_output_shape(height, width, short_side, max_side)
    return max(resized[0], 1), max(resized[1], 1)


def resize_image(
    image: np.ndarray,
    height: int,
    width: int,
    *,
    rule: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resize (H, W, 3) u8 by a rule of Pillow's, whose bilinear one averages when shrinking."""
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), rule))


def resize_label(label: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Resize (H, W) u8 or u16 by torch's nearest rule: source index floor(d * in / out).

    Pillow's own nearest takes pixel centres and differs by up to a pixel.
    """
    values = torch.from_numpy(label.astype(np.int32 if label.dtype != np.uint8 else np.uint8))
    rows = _nearest_source(label.shape[0], height)
    columns = _nearest_source(label.shape[1], width)
    return values[rows][:, columns]


def _nearest_source(size: int, resized: int) -> torch.Tensor:
    # double, as label maps are resized by Detectron2: in single precision some indices differ
    positions = torch.arange(size, dtype=torch.float64)[None, None]
    return torch.nn.functional.interpolate(positions, size=resized, mode="nearest")[0, 0].long()
