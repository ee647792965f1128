"""Label maps whose values are the row indices of the vocabulary: those of your own data."""

from __future__ import annotations

from functools import partial

import numpy as np

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


def convert_label_maps(conversion: Conversion) -> Outcome:
    """Write the label maps of a split; a value that is neither class nor ignored is refused.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or holds an unknown value.
    """
    dataset = conversion.dataset
    rows = [category.row for category in conversion.vocabulary.categories]
    dtype = np.uint8 if dataset.ignore_label == 255 else np.uint16
    refused = dataset.ignore_label - 1
    table = np.full(65536, refused, dtype)
    table[list(dataset.ignored_values)] = dataset.ignore_label
    table[rows] = np.arange(len(rows))
    make = partial(_make, table=table, refused=refused)
    return semantic_outcome(conversion, image_tasks(conversion), make, dataset.ignore_label)


def _make(task: Task, *, table: np.ndarray, refused: int) -> Made:
    assert task.raw is not None
    raw = read_label(task.raw)
    return map_values(raw, table[: np.iinfo(raw.dtype).max + 1], task.raw, refused=refused), 0
