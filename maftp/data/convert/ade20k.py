"""ADE20K scene parsing: 150 classes, and their panoptic and instance ground truth.

The 150 classes are 100 things and 50 stuff classes. Instance PNGs hold R = instance category (k-th
smallest thing), G = instance number within the image, 0 = none.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    Task,
    image_tasks,
    map_values,
    semantic_outcome,
)
from maftp.data.images import read_label
from maftp.errors import DataError

IGNORE = 255
STUFF_IDS = (
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60,
    61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131,
    140, 141, 145,
)  # fmt: skip
"""Stuff among the 150 classes, counted from 0; the others are things."""
_REFUSED = 254
_MOST_OF_ONE_CATEGORY = 255


def thing_ids(classes: int) -> list[int]:
    """Return the things among the first `classes` of the 150 classes, ascending."""
    return sorted(set(range(classes)) - set(STUFF_IDS))


def scene_table(classes: int) -> np.ndarray:
    """Return the class of every raw value 0..255, (256,) u8: 0 is ignored, k becomes k - 1.

    A value above `classes` has entry 254, which no class has.
    """
    table = np.full(256, _REFUSED, np.uint8)
    table[0] = IGNORE
    table[1 : classes + 1] = np.arange(classes)
    return table


def convert_150(conversion: Conversion) -> Outcome:
    """Write the label maps of a split of the 150 classes.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or holds an unknown value.
    """
    make = partial(_make_150, table=scene_table(len(conversion.vocabulary)))
    return semantic_outcome(conversion, image_tasks(conversion), make, IGNORE)


def _make_150(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    return map_values(read_label(task.raw, modes=("L", "P")), table, task.raw, refused=_REFUSED), 0


def instance_categories(instances: np.ndarray, things: list[int], path: Path) -> dict[int, int]:
    """Return class id by instance number, ascending.

    Args:
        instances: (H, W, 3) u8 instance PNG.
        things: class ids of the things, ascending.
        path: file of `instances`, for errors.

    Raises:
        DataError: an instance number has two categories, or one that is not a thing.
    """
    code = instances[..., 1].astype(np.int32) << 8 | instances[..., 0]
    found: dict[int, int] = {}
    for value in np.flatnonzero(np.bincount(code.ravel())).tolist():
        number, category = divmod(value, 256)
        if number == 0:
            continue
        if number in found or not 1 <= category <= len(things):
            what = "two categories" if number in found else f"category {category}"
            raise DataError(
                f"{path}: instance {number} has {what}, expected one of 1..{len(things)};"
                " unpack its archive again"
            )
        found[number] = things[category - 1]
    return found


def panoptic_segments(
    semantic: np.ndarray, instances: np.ndarray, *, classes: int, path: Path
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Paint stuff, then things over it, and describe every segment.

    Area and box are those of the moment of painting: what later segments cover still counts, and a
    stuff segment that is covered wholly stays in the list. Panoptic quality is defined on these
    areas.

    Args:
        semantic: (H, W) u8, 0 = other, k = class k - 1.
        instances: (H, W, 3) u8 instance PNG.
        classes: number of classes.
        path: file of `instances`, for errors.

    Returns:
        Segment ids (H, W) int32, 0 = void, and one dict per segment: id = 256 (category + 1) +
        number within its category, category_id, area, bbox (x, y, width, height), iscrowd.

    Raises:
        DataError: sizes differ, a value is unknown, or a category has over 255 segments.
    """
    if semantic.shape != instances.shape[:2]:
        raise DataError(f"{path}: {instances.shape[:2]} pixels, the label map has {semantic.shape}")
    things = thing_ids(classes)
    stuff = set(range(classes)) - set(things)
    numbers: dict[int, int] = {}
    segments: list[dict[str, Any]] = []

    def segment(category: int, area: int, box: tuple[slice, slice]) -> int:
        numbers[category] = numbers.get(category, 0) + 1
        if numbers[category] > _MOST_OF_ONE_CATEGORY:
            raise DataError(f"{path}: over 255 segments of category {category}; no id is left")
        identity = 256 * (category + 1) + numbers[category]
        described = {"id": identity, "category_id": category, "area": area, "bbox": _bbox(box)}
        segments.append(described | {"iscrowd": 0})
        return identity

    areas = np.bincount(semantic.ravel(), minlength=256)
    if areas[classes + 1 :].any():
        raise DataError(f"{path}: its label map holds a value above {classes}, the last class")
    boxes = ndimage.find_objects(semantic, max_label=classes)
    stuff_ids = np.zeros(256, np.int32)
    for category in sorted(stuff):
        if areas[category + 1]:
            area = int(areas[category + 1])
            stuff_ids[category + 1] = segment(category, area, boxes[category])
    numbered = np.ascontiguousarray(instances[..., 1])
    areas = np.bincount(numbered.ravel(), minlength=256)
    boxes = ndimage.find_objects(numbered)
    instance_ids = np.zeros(256, np.int32)
    for number, category in instance_categories(instances, things, path).items():
        instance_ids[number] = segment(category, int(areas[number]), boxes[number - 1])
    painted = np.where(numbered > 0, instance_ids[numbered], stuff_ids[semantic])
    return painted, segments


def instance_annotations(
    instances: np.ndarray, *, classes: int, path: Path
) -> list[dict[str, Any]]:
    """Describe every instance: category_id, bbox, compressed RLE, its area, iscrowd 0.

    Args:
        instances: (H, W, 3) u8 instance PNG.
        classes: number of classes.
        path: file of `instances`, for errors.

    Raises:
        DataError: an instance has two categories or one that is not a thing.
    """
    numbered = np.ascontiguousarray(instances[..., 1])
    boxes = ndimage.find_objects(numbered)
    found = []
    for number, category in instance_categories(instances, thing_ids(classes), path).items():
        mask = np.asfortranarray(numbered == number, dtype=np.uint8)
        code = coco_mask.encode(mask)
        area = int(coco_mask.area(code))
        segmentation = {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}
        box = _bbox(boxes[number - 1])
        described = {"category_id": category, "bbox": box, "area": area, "iscrowd": 0}
        found.append(described | {"segmentation": segmentation})
    return found


def _bbox(box: tuple[slice, slice]) -> list[int]:
    rows, columns = box
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
