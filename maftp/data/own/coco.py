"""Ground truth in COCO's formats: panoptic PNGs with their JSON, or the JSON of instances."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.data.annotations import PanopticFile, read_instance_json, read_panoptic_json
from maftp.data.convert.coco import IGNORE, panoptic_to_semantic
from maftp.data.convert.coco_instances import paint
from maftp.data.convert.driver import count_values, fit_size, run_tasks
from maftp.data.images import read_label, segment_ids
from maftp.data.own.checked import (
    IMAGE_SUFFIXES,
    Checked,
    check_image,
    list_files,
    refuse,
    unpaired,
)
from maftp.data.own.names import Names, parse_names
from maftp.errors import DataError

_MOST_CLASSES = 254


@dataclass(frozen=True)
class _Found:
    fault: str | None
    counts: dict[int, int]


def check_panoptic(
    images: Path,
    masks: Path,
    annotations: Path,
    names: Names | None,
    *,
    things: Sequence[str],
    workers: int,
) -> Checked:
    """Check a panoptic set: images, PNGs and JSON belong together, segment by segment.

    Args:
        images: folder of the images.
        masks: folder of the PNGs, whose colours are the ids of segments.
        annotations: the JSON.
        names: the classes by category id, for synonyms; None takes the names in the JSON.
        things: classes that are things, for a JSON that does not say it.
        workers: processes.

    Raises:
        DataError: says of every fault where it is and what to do.
    """
    found = read_panoptic_json(annotations, things=things)
    if unknown := set(things) - {category["name"] for category in found.categories}:
        raise DataError(
            f"{annotations}: no category is called {min(unknown)!r}; mend the names of --things"
        )
    names = _names(found.categories, names, annotations)
    pictures = list_files(images, IMAGE_SUFFIXES, "images")
    maps = list_files(masks, (".png",), "panoptic PNGs")
    refuse(unpaired(pictures, found.annotations, images, annotations))
    refuse(
        f"{masks}: no {stem}.png, which {annotations} names; add it"
        for stem in found.annotations
        if stem not in maps
    )
    ranks = {category["id"]: rank for rank, category in enumerate(found.categories)}
    tasks = [
        (pictures[stem], maps[stem], entry["segments_info"])
        for stem, entry in sorted(found.annotations.items())
    ]
    step = partial(_check_segments, ranks=ranks)
    results = run_tasks(step, tasks, workers=workers, description=f"check {masks.name}")
    by_stem = {image.stem: (mask, segments) for image, mask, segments in tasks}
    return _checked(
        results,
        kind="panoptic",
        converter="coco_panoptic",
        names=names,
        images=pictures,
        files={f"panoptic/{stem}.png": maps[stem] for stem in found.annotations}
        | {"panoptic.json": partial(_dumped, found, pictures)},
        places={"labels": "labels", "panoptic": "panoptic", "annotations": "panoptic.json"},
        labels_of=lambda stem: _signed(_segments_to_classes(*by_stem[stem], ranks)),
    )


def check_instances(
    images: Path, annotations: Path, names: Names | None, *, workers: int
) -> Checked:
    """Check a set of instances: every image is there, of the noted size, and every mask decodes.

    Args:
        images: folder of the images.
        annotations: the JSON.
        names: the classes by category id, for synonyms; None takes the names in the JSON.
        workers: processes.

    Raises:
        DataError: says of every fault where it is and what to do.
    """
    found = read_instance_json(annotations)
    names = _names(found.categories, names, annotations)
    pictures = list_files(images, IMAGE_SUFFIXES, "images")
    refuse(unpaired(pictures, found.images, images, annotations))
    ranks = {category["id"]: rank for rank, category in enumerate(found.categories)}
    entries = {stem: (found.images[stem], found.annotations[stem]) for stem in pictures}
    tasks = [(pictures[stem], annotations, *entries[stem]) for stem in pictures]
    step = partial(_check_instances, ranks=ranks)
    results = run_tasks(step, tasks, workers=workers, description=f"check {annotations.name}")
    return _checked(
        results,
        kind="instance",
        converter="coco_instance",
        names=names,
        images=pictures,
        files={"instances.given.json": annotations},
        places={
            "labels": "labels",
            "annotations": "instances.json",
            "raw": {"annotations": "instances.given.json"},
        },
        labels_of=lambda stem: _signed(paint(*entries[stem], ranks, annotations)),
    )


def _names(categories: Sequence[Mapping[str, Any]], given: Names | None, path: Path) -> Names:
    """Return the names of the categories, in the order of their ids."""
    ids = [category["id"] for category in categories]
    if len(ids) > _MOST_CLASSES:
        raise DataError(
            f"{path}: {len(ids)} categories, at most {_MOST_CLASSES} are taken; leave some out"
        )
    if given is None:
        rows = (f"{category['id']}:{category.get('name', '')}" for category in categories)
        return parse_names("\n".join(rows), str(path))
    if odd := sorted(set(ids) ^ set(given.rows)):
        here, lacking = (path, given.where) if odd[0] in ids else (given.where, path)
        raise DataError(
            f"{lacking}: nothing for category id {odd[0]}, which {here} has; write 'id:name' for "
            "every category of the JSON"
        )
    by_row = {category.row: category.name for category in given.vocabulary.categories}
    return parse_names("\n".join(f"{i}:{by_row[i]}" for i in ids), given.where)


def _check_segments(
    task: tuple[Path, Path, list[dict[str, Any]]], *, ranks: Mapping[int, int]
) -> _Found:
    """Check one image with its PNG; a fault is told, not raised, so that all are found."""
    image, mask, segments = task
    try:
        check_image(image)
        classes = _segments_to_classes(mask, segments, ranks)
        fit_size((classes.shape[1], classes.shape[0]), image, mask)
    except DataError as error:
        return _Found(str(error), {})
    return _Found(None, _counts(classes))


def _segments_to_classes(
    mask: Path, segments: list[dict[str, Any]], ranks: Mapping[int, int]
) -> NDArray:
    ids = segment_ids(read_label(mask, modes=("RGB",)))
    return panoptic_to_semantic(ids, segments, dict(ranks), mask)


def _check_instances(
    task: tuple[Path, Path, dict[str, Any], list[dict[str, Any]]], *, ranks: Mapping[int, int]
) -> _Found:
    """Check one image with its instances; a fault is told, not raised, so that all are found."""
    image, path, entry, annotations = task
    try:
        check_image(image)
        fit_size((entry["width"], entry["height"]), image, path)
        return _Found(None, _counts(paint(entry, annotations, ranks, path)))
    except DataError as error:
        return _Found(str(error), {})


def _counts(classes: NDArray) -> dict[int, int]:
    return {int(value): int(n) for value, n in enumerate(count_values(classes)) if n}


def _signed(classes: NDArray) -> NDArray:
    return np.where(classes == IGNORE, np.int32(-1), classes)  # a plain -1 would be a u8 as well


def _checked(results: Sequence[_Found], *, names: Names, **parts: Any) -> Checked:
    refuse(result.fault for result in results if result.fault)
    counts: dict[int, int] = {}
    for result in results:
        for value, count in result.counts.items():
            counts[value] = counts.get(value, 0) + count
    return Checked(
        names=names,
        pixels=[counts.get(rank, 0) for rank in range(len(names.rows))],
        ignored_pixels=counts.get(IGNORE, 0),
        **parts,
    )


def _dumped(found: PanopticFile, images: Mapping[str, Path]) -> bytes:
    """Return the JSON of a set, with what was told of things in it."""
    entries = found.annotations
    content = {
        "images": [{"id": entries[s]["image_id"], "file_name": images[s].name} for s in entries],
        "annotations": list(entries.values()),
        "categories": found.categories,
    }
    return json.dumps(content).encode()
