"""ADE20K panoptic and instance ground truth: PNGs and JSON files of a split, in COCO's formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maftp.data.annotations import check_segments, read_instance_json, read_panoptic_json
from maftp.data.convert.ade20k import (
    IGNORE,
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
from maftp.data.images import (
    encode_png,
    read_comment,
    read_label,
    segment_colors,
    segment_ids,
    write_bytes,
)
from maftp.data.index import list_stems, pair
from maftp.data.vocabulary import Vocabulary
from maftp.errors import DataError
from maftp.files import atomic_path

KnownInstances = tuple[list[dict[str, Any]], tuple[int, int]]
"""Annotations of an image, and the width and height of their masks."""


def convert_panoptic(conversion: Conversion) -> Outcome:
    """Write the panoptic PNGs and the JSON of a split.

    Raises:
        DataError: images and maps do not pair up, or a file is damaged or not as described.
    """
    known = _known_segments(conversion.annotations)
    tasks = _tasks(conversion, conversion.panoptic, known)
    step = PanopticStep(len(conversion.vocabulary))
    results = run_tasks(step, tasks, workers=conversion.workers, description=conversion.name)
    categories = _categories(conversion.vocabulary, range(len(conversion.vocabulary)))
    if known is None or any(result.remade for result in results):
        annotations = [
            {
                "image_id": result.stem,
                "file_name": f"{result.stem}.png",
                "segments_info": result.segments,
            }
            for result in results
        ]
        _write_annotations(conversion.annotations, results, annotations, categories)
    details = {
        "segments": sum(len(result.segments or ()) for result in results),
        "segments_painted_over": sum(result.odd for result in results),
        "annotations_sha256": sha256_of(conversion.annotations),
    }
    return Outcome(results, categories, details)


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
        _write_annotations(conversion.annotations, results, annotations, categories)
    details = {
        "instances": sum(len(result.segments or ()) for result in results),
        "annotations_sha256": sha256_of(conversion.annotations),
    }
    return Outcome(results, categories, details)


@dataclass(frozen=True, slots=True)
class PanopticStep:
    """Makes, or checks, the panoptic PNG of one image; its segments travel in the PNG's comment."""

    classes: int

    def __call__(self, task: Task) -> Result:
        """Make the PNG of `task` unless a sound one is there.

        Raises:
            DataError: raw data are damaged or hold values that are not described.
        """
        instances, known = task.records
        if task.label.exists():
            try:
                segments = _listed(task.label) if known is None else known
                if segments is not None:
                    ids = segment_ids(read_label(task.label, modes=("RGB",)))
                    return self._result(task, ids, segments, sha256_of(task.label), remade=False)
            except DataError:
                if not instances.exists():
                    raise
        assert task.raw is not None
        semantic = read_label(task.raw, modes=("L", "P"))
        numbered = read_label(instances, modes=("RGB",))
        ids, segments = panoptic_segments(semantic, numbered, classes=self.classes, path=instances)
        result = self._result(task, ids, segments, "", remade=True)
        data = encode_png(segment_colors(ids), comment=json.dumps(segments))
        return replace(result, digest=write_bytes(task.label, data))

    def _result(
        self, task: Task, ids: np.ndarray, segments: list[dict[str, Any]], digest: str, remade: bool
    ) -> Result:
        width, height, fits = fit(ids, task.image, task.label)
        visible = count_segments(ids, segments, task.label)
        pixels: dict[int, int] = {}
        for segment in segments:
            category = segment["category_id"]
            pixels[category] = pixels.get(category, 0) + visible[segment["id"]]
        pixels[IGNORE] = ids.size - sum(pixels.values())
        covered = sum(visible[segment["id"]] != segment["area"] for segment in segments)
        return Result(
            task.stem, width, height, fits, pixels, digest, covered, segments, remade=remade
        )


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


def count_segments(
    ids: np.ndarray, segments: Sequence[dict[str, Any]], path: Path
) -> dict[int, int]:
    """Return the number of pixels of every listed segment; covered ones have none.

    Raises:
        DataError: an id of the map is not listed.
    """
    known = np.array(sorted({0, *(segment["id"] for segment in segments)}), ids.dtype)
    position = np.searchsorted(known, ids)
    position[position == len(known)] = 0
    if not np.array_equal(known[position], ids):
        raise DataError(
            f"{path}: an id is not listed in its annotations; delete it and convert again"
        )
    counts = np.bincount(position.ravel(), minlength=len(known))
    return dict(zip(known.tolist(), counts.tolist(), strict=True))


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


def _known_segments(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """Return the segments of a panoptic JSON by image stem, or None when there is no such file."""
    if not path.exists():
        return None
    annotations = read_panoptic_json(path).annotations
    return {stem: entry["segments_info"] for stem, entry in annotations.items()}


def _known_instances(path: Path) -> dict[str, KnownInstances] | None:
    """Return the instances of a JSON by image stem, or None when there is no such file."""
    if not path.exists():
        return None
    found = read_instance_json(path)
    return {
        stem: (found.annotations[stem], (image["width"], image["height"]))
        for stem, image in found.images.items()
    }


def _listed(path: Path) -> list[dict[str, Any]] | None:
    """Return the segments in the comment of a panoptic PNG, or None when it has none."""
    comment = read_comment(path)
    if comment is None:
        return None
    try:
        return check_segments(json.loads(comment), path)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its comment lists no segments ({error}); delete it") from None


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


def _write_annotations(
    path: Path,
    results: Sequence[Result],
    annotations: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
) -> None:
    images = [
        {"id": r.stem, "file_name": f"{r.stem}.jpg"}
        # masks are stored as the label is, which EXIF may turn away from the upright image
        | dict(zip(("width", "height"), (r.width, r.height)[:: 1 if r.fits else -1], strict=True))
        for r in results
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content))
