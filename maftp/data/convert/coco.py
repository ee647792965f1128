"""COCO: stuff-and-thing pixel maps to COCO-Stuff classes, panoptic PNGs to their semantic form.

Pixel maps hold category id - 1; eleven of the 182 ids have no annotation. The class is the rank of
the id in the vocabulary, whose row index is the category id.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maftp.data.annotations import read_panoptic_json
from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    Task,
    image_tasks,
    make_tasks,
    map_values,
    semantic_outcome,
)
from maftp.data.images import read_label, segment_ids
from maftp.data.index import list_stems, pair
from maftp.data.vocabulary import Vocabulary
from maftp.errors import DataError

logger = logging.getLogger(__name__)

IGNORE = 255
REMOVED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""COCO-Stuff category ids without any annotation."""
_LAST_ID = 182
_REFUSED = 254


def stuff_table(category_ids: Sequence[int]) -> np.ndarray:
    """Return the class of every value 0..255 of a pixel map, (256,) u8.

    Args:
        category_ids: ids of the classes in ascending order; official: 171 of 1..182.

    255 is ignored. So are the values of removed ids and of 182..254, which should not occur. The
    value of an id that the vocabulary lacks has entry 254, which no class has.

    Raises:
        DataError: ids are not ascending or not COCO-Stuff's.
    """
    ids = list(category_ids)
    possible = set(range(1, _LAST_ID + 1)) - set(REMOVED_IDS)
    if ids != sorted(set(ids)) or not possible.issuperset(ids):
        raise DataError(
            "vocabulary coco_stuff: row indices must be COCO-Stuff category ids in ascending order;"
            " use the published list"
        )
    table = np.full(256, IGNORE, np.uint8)
    table[[i - 1 for i in possible]] = _REFUSED
    table[[i - 1 for i in ids]] = np.arange(len(ids), dtype=np.uint8)
    return table


def stuff_classes(raw: np.ndarray, table: np.ndarray, path: Path) -> Made:
    """Map a pixel map to classes and count the pixels whose value should not occur.

    Args:
        raw: (H, W) u8.
        table: from `stuff_table`.
        path: file of `raw`, for errors.

    Raises:
        DataError: a value belongs to a category that the vocabulary lacks.
    """
    label = map_values(raw, table, path, refused=_REFUSED)
    unexpected = int(np.count_nonzero(label == IGNORE)) - int(np.count_nonzero(raw == IGNORE))
    return label, unexpected


def convert_stuff(conversion: Conversion) -> Outcome:
    """Write the label maps of a COCO-Stuff split.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or not as described.
    """
    table = stuff_table([category.row for category in conversion.vocabulary.categories])
    make = partial(_make_stuff, table=table)
    outcome = semantic_outcome(conversion, image_tasks(conversion), make, IGNORE)
    odd = sum(result.odd for result in outcome.results)
    if odd:
        logger.warning(
            "%s: %d pixels of categories without annotations ignored", conversion.name, odd
        )
    return outcome


def _make_stuff(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    return stuff_classes(read_label(task.raw, modes=("L", "P")), table, task.raw)


def check_categories(
    categories: Sequence[dict[str, Any]], vocabulary: Vocabulary, path: Path
) -> None:
    """Check that the category ids, ascending, are the row indices of the vocabulary.

    Raises:
        DataError: names the first difference.
    """
    ids = [category["id"] for category in categories]
    rows = [category.row for category in vocabulary.categories]
    if ids != rows:
        odd = sorted(set(ids) ^ set(rows))
        what = f"id {odd[0]} is in only one of them" if odd else "the order differs"
        raise DataError(
            f"{path}: {len(ids)} categories do not match the {len(rows)} classes of the vocabulary"
            f" ({what}); use the vocabulary of this data set"
        )


def panoptic_to_semantic(
    ids: np.ndarray, segments: Sequence[dict[str, Any]], ranks: dict[int, int], path: Path
) -> np.ndarray:
    """Return the semantic form of a panoptic label map, (H, W) u8, 255 where no segment is.

    Args:
        ids: (H, W) segment ids, 0 = void.
        segments: `id` and `category_id` of every segment; crowd counts as any other.
        ranks: category id to class index.
        path: file of `ids`, for errors.

    Raises:
        DataError: ids in the map and in the list differ, an id is listed twice or is void's, or
            a category is unknown.
    """
    classes = {0: IGNORE}
    for segment in segments:
        if segment["id"] in classes:
            raise DataError(
                f"{path}: segment id {segment['id']} is listed twice, or void's; unpack both from"
                " one archive again"
            )
        if segment["category_id"] not in ranks:
            raise DataError(
                f"{path}: segment {segment['id']} has the unknown category"
                f" {segment['category_id']}; use images and annotations of one release"
            )
        classes[segment["id"]] = ranks[segment["category_id"]]
    known = np.array(sorted(classes), ids.dtype)
    position = np.searchsorted(known, ids)
    position[position == len(known)] = 0
    counts = np.bincount(position.ravel(), minlength=len(known))
    absent = [int(i) for i in known[counts == 0] if i]
    if absent or not np.array_equal(known[position], ids):
        what = f"listed segment {absent[0]} has no pixel" if absent else "an id is not listed"
        raise DataError(f"{path}: {what} in the annotations; unpack both from one archive again")
    return np.array([classes[int(i)] for i in known], np.uint8)[position]


def convert_panoptic(conversion: Conversion) -> Outcome:
    """Check the panoptic PNGs of a split against their JSON and write their semantic form.

    Raises:
        DataError: images, PNGs and annotations do not pair up, or a file is damaged or wrong.
    """
    found = read_panoptic_json(conversion.annotations)
    check_categories(found.categories, conversion.vocabulary, conversion.annotations)
    stems = list_stems(conversion.images, conversion.dataset.image_suffix)
    pair(stems, list_stems(conversion.panoptic, ".png"), conversion.images, conversion.panoptic)
    pair(stems, found.annotations, conversion.images, conversion.annotations)
    tasks = make_tasks(
        conversion,
        {stem: conversion.panoptic / f"{stem}.png" for stem in stems},
        {stem: found.annotations[stem]["segments_info"] for stem in stems},
    )
    ranks = {category["id"]: rank for rank, category in enumerate(found.categories)}
    outcome = semantic_outcome(conversion, tasks, partial(_make_semantic, ranks=ranks), IGNORE)
    odd = sum(result.odd for result in outcome.results)
    if odd:
        logger.warning(
            "%s: %d segments have other areas in %s than in the PNGs; panoptic quality goes by the"
            " former, and is not computed where they are too small",
            conversion.name, odd, conversion.annotations,
        )  # fmt: skip
    return replace(outcome, categories=found.categories)


def _make_semantic(task: Task, *, ranks: dict[int, int]) -> Made:
    assert task.raw is not None
    ids = segment_ids(read_label(task.raw, modes=("RGB",)))
    label = panoptic_to_semantic(ids, task.records, ranks, task.raw)
    values, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return label, sum(segment["area"] != pixels[segment["id"]] for segment in task.records)
