"""Panoptic ground truth that is made here: a PNG per image, and a JSON in COCO's format.

While a split is made, the segments of an image travel in the comment of its PNG.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maftp.data.annotations import check_segments, read_panoptic_json
from maftp.data.convert.driver import (
    Conversion,
    Outcome,
    Result,
    Task,
    fit,
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
from maftp.errors import DataError
from maftp.files import atomic_path

IGNORE = 255
Segments = tuple[np.ndarray, list[dict[str, Any]]]
"""Ids of segments (H, W) int32, 0 where there is none, and a description of each."""


@dataclass(frozen=True, slots=True)
class PanopticStep:
    """Makes, or checks, the panoptic PNG of one image.

    A task's records are the raw file that it cannot do without, and its segments where known.
    """

    make: Callable[[Task], Segments]

    def __call__(self, task: Task) -> Result:
        """Make the PNG of `task` unless a sound one is there.

        Raises:
            DataError: raw data are damaged or hold values that are not described.
        """
        needed, known = task.records
        if task.label.exists():
            try:
                segments = _listed(task.label) if known is None else known
                if segments is not None:
                    ids = segment_ids(read_label(task.label, modes=("RGB",)))
                    return self._result(task, ids, segments, sha256_of(task.label), remade=False)
            except DataError:
                if not needed.exists():
                    raise
        ids, segments = self.make(task)
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


def panoptic_outcome(
    conversion: Conversion,
    tasks: Sequence[Task],
    make: Callable[[Task], Segments],
    categories: Sequence[dict[str, Any]],
    *,
    known: bool,
) -> Outcome:
    """Make, or check, the PNG of every task, and write the JSON unless it is there.

    Args:
        conversion: the split.
        tasks: one per image, see `PanopticStep`.
        make: segments of one image from its raw files.
        categories: in COCO's form, ids in class order.
        known: whether the JSON is there and the tasks hold its segments.
    """
    results = run_tasks(
        PanopticStep(make), tasks, workers=conversion.workers, description=conversion.name
    )
    if not known or any(result.remade for result in results):
        annotations = [
            {
                "image_id": result.stem,
                "file_name": f"{result.stem}.png",
                "segments_info": result.segments,
            }
            for result in results
        ]
        suffix = conversion.dataset.image_suffix
        write_annotations(conversion.annotations, results, annotations, categories, suffix)
    details = {
        "segments": sum(len(result.segments or ()) for result in results),
        "segments_painted_over": sum(result.odd for result in results),
        "annotations_sha256": sha256_of(conversion.annotations),
    }
    return Outcome(results, list(categories), details)


def known_segments(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """Return the segments of a panoptic JSON by image stem, or None when there is no such file."""
    if not path.exists():
        return None
    annotations = read_panoptic_json(path).annotations
    return {stem: entry["segments_info"] for stem, entry in annotations.items()}


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


def write_annotations(
    path: Path,
    results: Sequence[Result],
    annotations: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
    suffix: str,
) -> None:
    """Write a JSON in COCO's format, whose images end in `suffix`."""
    images = [
        {"id": r.stem, "file_name": f"{r.stem}{suffix}"}
        # masks are stored as the label is, which EXIF may turn away from the upright image
        | dict(zip(("width", "height"), (r.width, r.height)[:: 1 if r.fits else -1], strict=True))
        for r in results
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content))


def _listed(path: Path) -> list[dict[str, Any]] | None:
    """Return the segments in the comment of a panoptic PNG, or None when it has none."""
    comment = read_comment(path)
    if comment is None:
        return None
    try:
        return check_segments(json.loads(comment), path)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its comment lists no segments ({error}); delete it") from None
