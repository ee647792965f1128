"""PASCAL VOC 2012: palette label maps to 20 classes without background, or to 21 with it."""

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
from maftp.errors import DataError

IGNORE = 255
_REFUSED = 254


def voc_table(classes: int, *, background: bool) -> np.ndarray:
    """Return the class of every raw value, (256,) u8.

    Args:
        classes: number of classes that come out, background included when it is one.
        background: raw 0 is class 0 (VOC-21); otherwise it is ignored and k becomes k - 1 (PAS-20).

    255, the border, is ignored. Any other value has entry 254, which no class has.
    """
    table = np.full(256, _REFUSED, np.uint8)
    table[255] = IGNORE
    if background:
        table[:classes] = np.arange(classes)
    else:
        table[0] = IGNORE
        table[1 : classes + 1] = np.arange(classes)
    return table


def convert_voc(conversion: Conversion, *, background: bool) -> Outcome:
    """Write the label maps of the listed images, and link these images into a folder of their own.

    Raises:
        DataError: an image or label map is missing, damaged, or holds an unknown value.
    """
    table = voc_table(len(conversion.vocabulary), background=background)
    tasks = finished_tasks(conversion) or _tasks(conversion)
    return semantic_outcome(conversion, tasks, partial(_make, table=table), IGNORE)


def listed_stems(path: Path) -> list[str]:
    """Return the sorted stems of a VOC image list.

    Raises:
        DataError: the list is missing or holds a stem twice.
    """
    try:
        stems = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); unpack its archive first") from None
    if len(stems) != len(set(stems)):
        raise DataError(f"{path}: an image is listed twice; unpack its archive again")
    return sorted(stems)


def _tasks(conversion: Conversion) -> list[Task]:
    stems = listed_stems(conversion.raw("list"))
    images, raw = conversion.raw("images"), conversion.raw("labels")
    link_images({stem: images / f"{stem}.jpg" for stem in stems}, conversion.images)
    return make_tasks(conversion, {stem: raw / f"{stem}.png" for stem in stems})


def _make(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    raw = read_label(task.raw, modes=("P", "L"))
    return map_values(raw, table, task.raw, refused=_REFUSED), 0
