"""Cityscapes: label ids of the fine annotation to the 19 classes that are evaluated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    Task,
    finished_tasks,
    make_tasks,
    map_values,
    semantic_outcome,
)
from maftp.data.convert.linking import link_images
from maftp.data.images import read_label
from maftp.data.index import pair
from maftp.errors import DataError

IGNORE = 255
_REFUSED = 254
EVALUATED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the classes, in the order of their training ids."""
_LABEL_IDS = 34
IMAGE_END = "_leftImg8bit.png"
_LABEL_END = "_gtFine_labelIds.png"


def label_table(classes: int) -> np.ndarray:
    """Return the class of every raw value 0..255, (256,) u8.

    Label ids 0..33 that are not evaluated are ignored. An evaluated one beyond the first `classes`,
    and any other value, has entry 254, which no class has.

    Raises:
        DataError: there are more than 19 classes.
    """
    if classes > len(EVALUATED_IDS):
        raise DataError(f"vocabulary cityscapes: {classes} classes, at most 19 are possible")
    table = np.full(256, _REFUSED, np.uint8)
    table[:_LABEL_IDS] = IGNORE
    table[list(EVALUATED_IDS)] = _REFUSED
    table[list(EVALUATED_IDS[:classes])] = np.arange(classes)
    return table


def convert_cityscapes(conversion: Conversion) -> Outcome:
    """Write the label maps of a split, and link its images into one flat folder.

    Raises:
        DataError: images and label maps do not pair up, or a file is damaged or not as described.
    """
    make = partial(_make, table=label_table(len(conversion.vocabulary)))
    tasks = finished_tasks(conversion) or _tasks(conversion)
    return semantic_outcome(conversion, tasks, make, IGNORE)


def _tasks(conversion: Conversion) -> list[Task]:
    image_dir, label_dir = conversion.raw("images"), conversion.raw("labels")
    images, labels = files_by_stem(image_dir, IMAGE_END), files_by_stem(label_dir, _LABEL_END)
    pair(images, labels, image_dir, label_dir)
    link_images(images, conversion.images)
    return make_tasks(conversion, labels)


def files_by_stem(folder: Path, end: str) -> dict[str, Path]:
    """Return the files of all cities, by stem: city, sequence and frame."""
    found = {path.name.removesuffix(end): path for path in sorted(folder.glob(f"*/*{end}"))}
    if not found:
        raise DataError(f"{folder}: no file CITY/*{end}; unpack its archive first")
    return found


def _make(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    return map_values(read_label(task.raw, modes=("L",)), table, task.raw, refused=_REFUSED), 0
