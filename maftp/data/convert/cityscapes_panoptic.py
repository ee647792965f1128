"""Cityscapes: instance ids of the fine annotation to panoptic ground truth of the 19 classes.

A pixel of `*_gtFine_instanceIds.png` holds the label id, or 1000 times the label id plus a number
for a single thing. Things without a number are groups, which panoptic quality takes for crowds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from maftp.data.convert.cityscapes import EVALUATED_IDS, IMAGE_END, files_by_stem
from maftp.data.convert.driver import Conversion, Outcome, Task, prepare_folder
from maftp.data.convert.linking import link_images
from maftp.data.convert.panoptic import Segments, known_segments, panoptic_outcome
from maftp.data.images import read_label
from maftp.data.index import list_stems, pair
from maftp.errors import DataError

THING_IDS = range(24, 34)
"""Label ids that have instances; person to bicycle."""
_LARGEST_LABEL_ID = 33
_NUMBERS = 1000
_LABEL_END = "_gtFine_instanceIds.png"


def describe(values: np.ndarray, *, classes: int, path: Path) -> Segments:
    """Return the panoptic form of an instance map; a segment's id is its value.

    Args:
        values: (H, W), as the file has them.
        classes: number of classes, a prefix of the 19.
        path: file of `values`, for errors.

    Raises:
        DataError: a value is not described, or belongs to a class that the vocabulary lacks.
    """
    ids = values.astype(np.int32)
    found, positions = np.unique(ids, return_inverse=True)
    labels = np.where(found < _NUMBERS, found, found // _NUMBERS)
    unknown = found[(labels > _LARGEST_LABEL_ID) | ((found >= _NUMBERS) & (labels < THING_IDS[0]))]
    if unknown.size:
        raise DataError(f"{path}: value {unknown[0]} is no label id; unpack its archive again")
    ranks = {label: rank for rank, label in enumerate(EVALUATED_IDS)}
    boxes = ndimage.find_objects(positions.reshape(ids.shape) + 1)
    segments: list[dict[str, Any]] = []
    for value, label, box in zip(found.tolist(), labels.tolist(), boxes, strict=True):
        if label not in ranks:
            continue
        if ranks[label] >= classes:
            raise DataError(f"{path}: label id {label} is not among the {classes} classes")
        rows, columns = box
        width, height = columns.stop - columns.start, rows.stop - rows.start
        segments.append(
            {
                "id": value,
                "category_id": ranks[label],
                "area": int((ids[box] == value).sum()),
                "bbox": [columns.start, rows.start, width, height],
                "iscrowd": int(label in THING_IDS and value < _NUMBERS),
            }
        )
    kept = [segment["id"] for segment in segments]
    return np.where(np.isin(ids, kept), ids, 0), segments


def convert_cityscapes_panoptic(conversion: Conversion) -> Outcome:
    """Write the panoptic PNGs and the JSON of a split, and link its images into one flat folder.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or not as described.
    """
    known = known_segments(conversion.annotations)
    names = conversion.vocabulary.categories
    categories = [
        {
            "id": rank,
            "name": name.name,
            "isthing": int(label in THING_IDS),
            "color": list(name.color),
        }
        for rank, (name, label) in enumerate(zip(names, EVALUATED_IDS, strict=False))
    ]
    make = partial(_make, classes=len(names))
    tasks = _tasks(conversion, known)
    return panoptic_outcome(conversion, tasks, make, categories, known=known is not None)


def _tasks(conversion: Conversion, known: dict[str, Any] | None) -> list[Task]:
    folder, images = conversion.raw("labels"), conversion.images
    stems = list_stems(images, conversion.dataset.image_suffix, missing_ok=True)
    made = list_stems(conversion.panoptic, ".png", missing_ok=True)
    if known is None or not stems == made == sorted(known):
        raw = conversion.raw("images")
        pictures = files_by_stem(raw, IMAGE_END)
        labels = files_by_stem(folder, _LABEL_END)
        pair(pictures, labels, raw, folder)
        link_images(pictures, images)
    else:
        labels = {stem: folder / stem.split("_")[0] / f"{stem}{_LABEL_END}" for stem in stems}
    prepare_folder(conversion.panoptic)
    return [
        Task(
            stem,
            conversion.image(stem),
            conversion.panoptic / f"{stem}.png",
            raw_map,
            (raw_map, None if known is None else known.get(stem)),
        )
        for stem, raw_map in sorted(labels.items())
    ]


def _make(task: Task, *, classes: int) -> Segments:
    assert task.raw is not None
    return describe(read_label(task.raw, modes=("I;16", "L")), classes=classes, path=task.raw)
