"""Instances in COCO's format: with class indices for ids, and as label maps for training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.data.annotations import decode_mask, read_instance_json
from maftp.data.convert.coco import check_categories
from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    Task,
    make_tasks,
    semantic_outcome,
    sha256_of,
)
from maftp.data.index import list_stems, pair
from maftp.files import atomic_path

NOTHING = 255
"""Value of pixels without an instance."""


def paint(
    image: Mapping[str, Any],
    instances: Sequence[Mapping[str, Any]],
    ranks: Mapping[int, int],
    path: Path,
) -> NDArray[np.uint8]:
    """Return the label map of an image, (H, W) u8; smaller instances lie on top of larger ones.

    Args:
        image: its entry in the JSON.
        instances: its annotations; crowds lie below all others.
        ranks: class index by category id.
        path: the JSON, for errors.

    Raises:
        DataError: a mask is damaged.
    """
    size = (image["height"], image["width"])
    label = np.full(size, NOTHING, np.uint8)
    order = sorted(instances, key=lambda entry: (-entry["iscrowd"], -entry["area"], entry["id"]))
    for entry in order:
        where = f"{path}: annotation {entry['id']}"
        label[decode_mask(entry["segmentation"], size, where)] = ranks[entry["category_id"]]
    return label


def convert_instances(conversion: Conversion) -> Outcome:
    """Write the JSON with class indices for category ids, and the label maps of a split.

    Raises:
        DataError: images and annotations do not pair up, or the JSON is damaged or wrong.
    """
    path = conversion.raw("annotations")
    found = read_instance_json(path)
    check_categories(found.categories, conversion.vocabulary, path)
    stems = list_stems(conversion.images, conversion.dataset.image_suffix)
    pair(stems, found.images, conversion.images, path)
    ranks = {category["id"]: rank for rank, category in enumerate(found.categories)}
    tasks = make_tasks(
        conversion,
        dict.fromkeys(stems, path),
        {stem: (found.images[stem], found.annotations[stem]) for stem in stems},
    )
    outcome = semantic_outcome(conversion, tasks, partial(_make, ranks=ranks), NOTHING)
    names = conversion.vocabulary.names
    content = {
        "images": found.content["images"],
        "annotations": [
            entry | {"category_id": ranks[entry["category_id"]]}
            for entry in found.content["annotations"]
        ],
        "categories": [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(names)],
    }
    with atomic_path(conversion.annotations) as temporary:
        temporary.write_text(json.dumps(content))
    details = {
        "instances": len(content["annotations"]),
        "annotations_sha256": sha256_of(conversion.annotations),
    }
    return Outcome(outcome.results, content["categories"], details)


def _make(task: Task, *, ranks: Mapping[int, int]) -> Made:
    assert task.raw is not None
    return paint(*task.records, ranks, task.raw), 0
