"""Some images of a converted split with their ground truth, to be painted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from numpy.typing import NDArray

from maftp.data.annotations import decode_mask
from maftp.data.catalog import Catalog
from maftp.data.images import read_label, read_rgb, segment_ids
from maftp.data.records import Record, register
from maftp.errors import DataError

NOTHING = -1
"""Label of pixels without a class."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and its ground truth."""

    stem: str
    image: NDArray[np.uint8]
    """(H, W, 3) RGB, as stored: labels fit the stored image."""
    labels: NDArray[np.int32]
    """(H, W) class indices, `NOTHING` where there is none."""
    segments: NDArray[np.int32]
    """(H, W) ids of what has a border of its own: segments or instances, else the classes."""


def load_samples(
    name: str, catalog: Catalog, root: Path, *, split: str | None, count: int
) -> list[Sample]:
    """Return `count` images, evenly spread over a split, with their ground truth.

    Args:
        name: dataset of the catalog.
        catalog: the catalog.
        root: datasets root.
        split: its name; None takes the last one, validation where there is one.
        count: how many at most.

    Raises:
        DataError: there is no such dataset or split, it is not converted, or a file is damaged.
    """
    dataset = catalog.dataset(name)
    known = [key for key, entry in dataset.splits.items() if entry.count]
    chosen = known[-1] if split is None else split
    if chosen not in known:
        raise DataError(f"dataset {name} has no split {chosen!r}; known: {', '.join(known)}")
    register(catalog, root)
    records = DatasetCatalog.get(dataset.splits[chosen].name)
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [_sample(records[place], dataset.ignore_label) for place in places]


def _sample(record: Record, ignore_label: int) -> Sample:
    path = Path(record["file_name"])
    image = read_rgb(path, oriented=False)
    if "pan_seg_file_name" in record:
        labels, segments = _panoptic(record)
    elif "annotations" in record:
        labels, segments = _instances(record, image.shape[:2])
    else:
        raw = read_label(Path(record["sem_seg_file_name"])).astype(np.int32)
        labels = np.where(raw == ignore_label, NOTHING, raw).astype(np.int32)
        segments = labels
    if labels.shape != image.shape[:2]:
        raise DataError(f"{path}: image and label differ in size; convert the dataset again")
    return Sample(path.stem, image, labels, segments)


def _panoptic(record: dict[str, Any]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    ids = segment_ids(read_label(Path(record["pan_seg_file_name"]), modes=("RGB",)))
    labels = np.full(ids.shape, NOTHING, np.int32)
    for segment in record["segments_info"]:
        labels[ids == segment["id"]] = segment["category_id"]
    return labels, ids


def _instances(
    record: dict[str, Any], size: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    found = record["annotations"]
    masks = (decode_mask(one["segmentation"], size, record["file_name"]) for one in found)
    return stack(zip((one["category_id"] for one in found), masks, strict=True), size)


def stack(
    instances: Iterable[tuple[int, NDArray[np.bool_]]], size: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lay instances on each other: return the classes and the numbers of the uppermost, (H, W).

    Args:
        instances: class and mask (H, W) of each, the lowest first; numbers count from 1.
        size: height and width.
    """
    labels, numbers = np.full(size, NOTHING, np.int32), np.zeros(size, np.int32)
    for number, (label, mask) in enumerate(instances, start=1):
        labels[mask], numbers[mask] = label, number
    return labels, numbers
