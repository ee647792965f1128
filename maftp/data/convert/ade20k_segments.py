"""ADE20K panoptic and instance ground truth: PNGs and JSON files of a split, in COCO's formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from maftp.data.annotations import read_instance_json
from maftp.data.convert.ade20k import (
    instance_annotations,
    panoptic_segments,
    thing_ids,
)
from maftp.data.convert.driver import (
    Conversion,
    Outcome,
    Result,
    Task,
    fit,
    fit_size,
    prepare_folder,
    run_tasks,
    sha256_of,
)
from maftp.data.convert.panoptic import (
    Segments,
    known_segments,
    panoptic_outcome,
    write_annotations,
)
from maftp.data.images import read_label
from maftp.data.index import list_stems, pair
from maftp.data.vocabulary import Vocabulary

KnownInstances = tuple[list[dict[str, Any]], tuple[int, int]]
"""Annotations of an image, and the width and height of their masks."""


def convert_panoptic(conversion: Conversion) -> Outcome:
    """Write the panoptic PNGs and the JSON of a split.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or not as described.
    """
    known = known_segments(conversion.annotations)
    tasks = _tasks(conversion, conversion.panoptic, known)
    classes = len(conversion.vocabulary)
    make = partial(_make_panoptic, classes=classes)
    categories = _categories(conversion.vocabulary, range(classes))
    return panoptic_outcome(conversion, tasks, make, categories, known=known is not None)


def convert_instance(conversion: Conversion) -> Outcome:
    """Write the instance JSON of a split, one annotation per instance, ids from 1.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or not as described.
    """
    classes = len(conversion.vocabulary)
    known = _known_instances(conversion.annotations)
    tasks = _tasks(conversion, None, known)
    results = run_tasks(
        InstanceStep(classes), tasks, workers=conversion.workers, description=conversion.name
    )
    categories = _categories(conversion.vocabulary, thing_ids(classes))
    if known is None:
        annotations: list[dict[str, Any]] = []
        for result in results:
            for found in result.segments or ():
                annotations.append({"id": len(annotations) + 1, "image_id": result.stem} | found)
        write_annotations(conversion.annotations, results, annotations, categories, ".jpg")
    details = {
        "instances": sum(len(result.segments or ()) for result in results),
        "annotations_sha256": sha256_of(conversion.annotations),
    }
    return Outcome(results, categories, details)


def _make_panoptic(task: Task, *, classes: int) -> Segments:
    instances, _ = task.records
    assert task.raw is not None
    semantic = read_label(task.raw, modes=("L", "P"))
    numbered = read_label(instances, modes=("RGB",))
    return panoptic_segments(semantic, numbered, classes=classes, path=instances)


@dataclass(frozen=True, slots=True)
class InstanceStep:
    """Describes the instances of one image, unless they are known."""

    classes: int

    def __call__(self, task: Task) -> Result:
        """Return the annotations of `task` as segments.

        Raises:
            DataError: the instance PNG is damaged or not as described.
        """
        instances, known = task.records
        if known is None:
            numbered = read_label(instances, modes=("RGB",))
            width, height, fits = fit(numbered, task.image, instances)
            found = instance_annotations(numbered, classes=self.classes, path=instances)
        else:
            found, size = known
            width, height, fits = fit_size(size, task.image, instances)
        pixels: dict[int, int] = {}
        for annotation in found:
            category = annotation["category_id"]
            pixels[category] = pixels.get(category, 0) + int(annotation["area"])
        return Result(task.stem, width, height, fits, pixels, "", segments=found)


def _tasks(
    conversion: Conversion, labels: Path | None, known: Mapping[str, Any] | None
) -> list[Task]:
    """Return a task per image; its records: instance PNG, and its segments where known."""
    stems = list_stems(conversion.images, ".jpg")
    semantic, instances = conversion.raw("labels"), conversion.raw("instances")
    made = labels is None or list_stems(labels, ".png", missing_ok=True) == stems
    if known is None or not made:
        pair(stems, list_stems(semantic, ".png"), conversion.images, semantic)
        pair(stems, list_stems(instances, ".png"), conversion.images, instances)
    if known is not None:
        pair(stems, known, conversion.images, conversion.annotations)
    if labels is not None:
        prepare_folder(labels)
    return [
        Task(
            stem,
            conversion.images / f"{stem}.jpg",
            (labels or instances) / f"{stem}.png",
            semantic / f"{stem}.png",
            (instances / f"{stem}.png", None if known is None else known[stem]),
        )
        for stem in stems
    ]


def _known_instances(path: Path) -> dict[str, KnownInstances] | None:
    """Return the instances of a JSON by image stem, or None when there is no such file."""
    if not path.exists():
        return None
    found = read_instance_json(path)
    return {
        stem: (found.annotations[stem], (image["width"], image["height"]))
        for stem, image in found.images.items()
    }


def _categories(vocabulary: Vocabulary, ids: Sequence[int]) -> list[dict[str, Any]]:
    things = set(thing_ids(len(vocabulary)))
    return [
        {
            "id": index,
            "name": vocabulary.categories[index].name,
            "isthing": int(index in things),
            "color": list(vocabulary.categories[index].color),
        }
        for index in ids
    ]
