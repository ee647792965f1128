"""From a Detectron2 record to the network's input, in training and in evaluation.

Training follows MAFT+ (ECCV 2024): semantic samples are resized to one scale and flipped, panoptic
samples get large-scale jitter and a square crop. Nothing is normalised or padded here but the crop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances
from PIL import Image

from maftp.config import Params
from maftp.data.disjoint_masks import DisjointMasks
from maftp.data.images import read_label, read_rgb, segment_ids
from maftp.data.records import Record
from maftp.errors import DataError

CROP_FILL = 128
"""Grey level of a crop beyond the image. It is normalised like pixels: not the mean colour."""


class SemanticMapper:
    """Training sample of a label map: shorter side resized, random flip, one mask per class."""

    def __init__(
        self, *, short_side: int, max_side: int, flip: float, ignore_label: int = 255
    ) -> None:
        """Take the sizes in pixels and the probability of a flip."""
        self.short_side = short_side
        self.max_side = max_side
        self.flip = flip
        self.ignore_label = ignore_label

    @classmethod
    def from_params(cls, params: Params) -> SemanticMapper:
        """Build it from `input.train`."""
        train = params.input.train
        return cls(short_side=train.short_side, max_side=train.max_side, flip=train.flip)

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Return `image` (3, H, W) u8 RGB, `height` and `width` of the file, and `instances`.

        `instances` holds `gt_classes` (G,), ascending, and `gt_masks`, DisjointMasks (G, H, W).
        G may be 0.

        Raises:
            DataError: a file is missing or damaged, or the label's size is not the image's.
        """
        image, label = read_semantic_pair(record)
        flip = rng.random() < self.flip
        size = resized_size(*label.shape, short_side=self.short_side, max_side=self.max_side)
        resized = resize_image(image, *size)
        target = resize_label(label, *size)
        if flip:
            resized, target = resized[:, ::-1], target.flip(1)
        return semantic_item(record, resized, image.shape, target, ignore_label=self.ignore_label)


class PanopticMapper:
    """Training sample of a panoptic map: random flip, large-scale jitter, square crop."""

    def __init__(self, *, crop_size: int, scale_range: tuple[float, float], flip: float) -> None:
        """Take the crop's side in pixels, the range of scales and the probability of a flip."""
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.flip = flip

    @classmethod
    def from_params(cls, params: Params) -> PanopticMapper:
        """Build it from `input.train`."""
        train = params.input.train
        return cls(crop_size=train.crop_size, scale_range=train.scale_range, flip=train.flip)

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Return `image` (3, S, S) u8 RGB, `height` and `width` of the file, and `instances`.

        One mask per segment that is not a crowd, in the order of the annotation; a segment that is
        cropped away keeps an empty mask. Crowd pixels belong to no mask.

        Raises:
            DataError: a file is missing or damaged, or the map's size is not the image's.
        """
        image, colors = _read_pair(record, "pan_seg_file_name", modes=("RGB",))
        flip = rng.random() < self.flip
        scale = rng.uniform(*self.scale_range)
        offset = rng.random()
        size = jittered_size(*image.shape[:2], scale=scale, crop_size=self.crop_size)
        flipped, flipped_colors = (image[:, ::-1], colors[:, ::-1]) if flip else (image, colors)
        resized = resize_image(flipped, *size)
        resized_colors = resize_image(flipped_colors, *size, rule=Image.Resampling.NEAREST)
        crop = crop_square(resized, offset, size=self.crop_size, fill=CROP_FILL)
        ids = segment_ids(crop_square(resized_colors, offset, size=self.crop_size, fill=255))
        segments = [segment for segment in record["segments_info"] if not segment["iscrowd"]]
        classes = torch.tensor([segment["category_id"] for segment in segments], dtype=torch.int64)
        wanted = torch.tensor([segment["id"] for segment in segments], dtype=torch.int32)
        masks = DisjointMasks(torch.from_numpy(ids), wanted)
        return _item(record, crop, image.shape, classes, masks)


class TestMapper:
    """Evaluation input: the image resized by its shorter side; the record's other keys stay."""

    __test__ = False  # keeps pytest from collecting a class named Test*

    def __init__(self, *, short_side: int, max_side: int) -> None:
        """Take the sizes in pixels."""
        self.short_side = short_side
        self.max_side = max_side

    @classmethod
    def from_params(cls, params: Params) -> TestMapper:
        """Build it from `input.test`."""
        return cls(short_side=params.input.test.short_side, max_side=params.input.test.max_side)

    def __call__(self, record: Record) -> dict[str, Any]:
        """Return the record with `image` (3, H, W) u8 RGB and the upright `height` and `width`.

        Raises:
            DataError: the image is missing or damaged.
        """
        image = read_rgb(Path(record["file_name"]), oriented=True)
        return record | test_input(image, short_side=self.short_side, max_side=self.max_side)


def test_input(
    image: np.ndarray, *, short_side: int | None, max_side: int
) -> dict[str, torch.Tensor | int]:
    """Return an image as a model takes it: `image` resized, `height` and `width` as they were.

    Args:
        image: (H, W, 3) u8 RGB.
        short_side: shorter side for the network in pixels; None keeps the size.
        max_side: largest longer side; not used when `short_side` is None.

    Returns:
        `image` is (3, h, w) u8.
    """
    height, width = image.shape[:2]
    if short_side is not None:
        size = resized_size(height, width, short_side=short_side, max_side=max_side)
        image = resize_image(image, *size)
    return {"image": _tensor(image), "height": height, "width": width}


test_input.__test__ = False  # as TestMapper's


def jittered_size(height: int, width: int, *, scale: float, crop_size: int) -> tuple[int, int]:
    """Return (height, width) so that the image fits a square of `scale` crops; half to even."""
    factor = min(crop_size * scale / height, crop_size * scale / width)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def crop_square(image: np.ndarray, offset: float, *, size: int, fill: int) -> np.ndarray:
    """Crop (H, W, 3) u8 to (size, size, 3); where it is smaller, pad right and bottom with `fill`.

    Args:
        image: what is cropped.
        offset: 0..1, the same part of the room to move along both axes.
        size: side of the crop.
        fill: value of the padding.
    """
    top, left = (int(np.round(max(side - size, 0) * offset)) for side in image.shape[:2])
    part = image[top : top + size, left : left + size]
    crop = np.full((size, size, 3), fill, np.uint8)
    crop[: part.shape[0], : part.shape[1]] = part
    return crop


def check_sizes(image: np.ndarray, label: np.ndarray, image_file: str, label_file: str) -> None:
    """Check that a label map fits its upright image; a label is never resized to fit.

    Raises:
        DataError: it does not; names both files.
    """
    if image.shape[:2] != label.shape[:2]:
        raise DataError(
            f"{label_file}: label of {label.shape[1]} x {label.shape[0]} pixels, but its image"
            f" {image_file} has {image.shape[1]} x {image.shape[0]}; convert the dataset again"
        )


def read_semantic_pair(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return the upright image (H, W, 3) of a record and its label map (H, W).

    Raises:
        DataError: a file is missing or damaged, or their sizes differ.
    """
    return _read_pair(record, "sem_seg_file_name", modes=("L", "P", "I;16"))


def semantic_item(
    record: Record,
    image: np.ndarray,
    original: tuple[int, ...],
    target: torch.Tensor,
    *,
    ignore_label: int,
) -> dict[str, Any]:
    """Return a training sample with one mask per class of a label map (H, W), ascending."""
    present = torch.bincount(target.flatten().int()).nonzero().flatten()
    classes = present[present != ignore_label]
    return _item(record, image, original, classes, DisjointMasks(target, classes))


def _read_pair(
    record: Record, key: str, *, modes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the upright image of a record and the label map under `key`, of the same size."""
    image = read_rgb(Path(record["file_name"]), oriented=True)
    label = read_label(Path(record[key]), modes=modes)
    check_sizes(image, label, record["file_name"], record[key])
    return image, label


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _item(
    record: Record,
    image: np.ndarray,
    original: tuple[int, ...],
    classes: torch.Tensor,
    masks: DisjointMasks,
) -> dict[str, Any]:
    instances = Instances((image.shape[0], image.shape[1]))
    instances.gt_classes = classes
    instances.gt_masks = masks
    return {
        "file_name": record["file_name"],
        "image_id": record["image_id"],
        "image": _tensor(image),
        "height": original[0],
        "width": original[1],
        "instances": instances,
    }


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
