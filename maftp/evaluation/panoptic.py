"""Panoptic quality: PQ, SQ and RQ over all classes, things and stuff.

The measure of Kirillov et al., "Panoptic Segmentation" (CVPR 2019), with the details on which
COCO's and ADE20K's published numbers rest: the area of a ground-truth segment is what its JSON
record states (ADE20K's is not corrected where a later segment covers it), VOID (id 0) leaves the
union, crowd regions are never missed and excuse predictions that lie mostly inside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.data.annotations import read_panoptic_json
from maftp.data.images import read_label, segment_ids
from maftp.errors import DataError
from maftp.evaluation.semantic import percent

VOID = 0
Segment = Mapping[str, Any]
"""A record of `segments_info`: `id`, `category_id`; in ground truth also `area` and `iscrowd`."""


@dataclass(frozen=True)
class PanopticTruth:
    """Ground truth of a data set: categories by id, and an annotation per image."""

    categories: dict[int, dict[str, Any]]
    annotations: dict[str, dict[str, Any]]
    """By image id, as text: COCO's ids are numbers, ADE20K's are file stems."""
    folder: Path
    """Where the PNGs lie."""

    @classmethod
    def read(cls, panoptic_json: Path, folder: Path) -> PanopticTruth:
        """Read `categories` and `annotations` of a panoptic JSON file.

        Raises:
            DataError: the file is missing, no panoptic JSON, or a field of it is wrong.
        """
        found = read_panoptic_json(panoptic_json)
        categories = {category["id"]: category for category in found.categories}
        annotations = {str(record["image_id"]): record for record in found.annotations.values()}
        return cls(categories=categories, annotations=annotations, folder=folder)

    @property
    def category_ids(self) -> list[int]:
        """Return the category id of every class: the ids in ascending order."""
        return sorted(self.categories)

    def segments(self, image_id: str) -> list[Segment]:
        """Return the `segments_info` of an image.

        Raises:
            DataError: the JSON has no such image.
        """
        if image_id not in self.annotations:
            raise DataError(f"image {image_id}: not in the panoptic JSON of {self.folder}")
        return self.annotations[image_id]["segments_info"]

    def ids(self, image_id: str) -> NDArray[np.integer]:
        """Return the (H, W) segment ids of an image.

        Raises:
            DataError: the PNG is missing, damaged or not RGB, or smaller than a segment's area.
        """
        path = self.folder / self.annotations[image_id]["file_name"]
        ids = segment_ids(read_label(path, modes=("RGB",)))
        for segment in self.segments(image_id):
            if segment["area"] > ids.size:
                raise DataError(
                    f"ground truth of {image_id}: segment {segment['id']} states an area of"
                    f" {segment['area']}, but {path} has {ids.size} pixels; obtain JSON and PNGs of"
                    " one release"
                )
        return ids


@dataclass
class CategoryCounts:
    """What PQ sums over images, for one category."""

    iou: float = 0.0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: CategoryCounts) -> CategoryCounts:
        return CategoryCounts(
            self.iou + other.iou,
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def occurs(self) -> bool:
        """Whether the category enters averages."""
        return bool(self.true_positives + self.false_positives + self.false_negatives)

    def quality(self) -> tuple[float, float, float]:
        """Return PQ, SQ, RQ in 0..1; SQ is 0 without a match. The category must occur."""
        weight = self.true_positives + (self.false_positives + self.false_negatives) / 2
        segmentation = self.iou / self.true_positives if self.true_positives else 0.0
        return self.iou / weight, segmentation, self.true_positives / weight


class PanopticQuality:
    """Accumulates PQ image by image; instances of several processes add up.

    Args:
        categories: category records (`id`, `name`, `isthing`) by id.
    """

    def __init__(self, *, categories: Mapping[int, Mapping[str, Any]]) -> None:
        self.categories = categories
        self.counts = {category: CategoryCounts() for category in categories}
        self.images: set[str] = set()

    def update(
        self,
        prediction: NDArray[np.integer],
        segments: Sequence[Segment],
        truth: NDArray[np.integer],
        truth_segments: Sequence[Segment],
        *,
        image_id: str,
    ) -> None:
        """Match the segments of one image and count.

        Args:
            prediction: (H, W) ids, 0 = unassigned.
            segments: `id` and `category_id` of every predicted segment.
            truth: (H, W) ids, 0 = VOID.
            truth_segments: `segments_info` of the ground truth.
            image_id: named in errors.

        Raises:
            DataError: sizes differ, ids and records disagree, or a category is not known.
        """
        if prediction.shape != truth.shape:
            raise DataError(
                f"image {image_id}: prediction {prediction.shape} and ground truth {truth.shape} "
                "differ in height x width; predict at the size of the file"
            )
        found = _Segments.of(prediction, segments, self.categories, f"prediction of {image_id}")
        wanted = _Segments.of(
            truth, truth_segments, self.categories, f"ground truth of {image_id}", may_vanish=True
        )
        common = _intersections(prediction, truth, found, wanted)
        excused = common[:, -1].copy()  # pixels on VOID
        crowd = np.array([bool(record.get("iscrowd", 0)) for record in truth_segments], dtype=bool)
        areas = np.array([record["area"] for record in truth_segments], dtype=np.int64)
        _check_areas(areas, wanted, image_id)
        matched = self._match(common, found, wanted, areas, crowd)
        for index, record in enumerate(truth_segments):
            if not crowd[index] and not matched[:, index].any():
                self.counts[record["category_id"]].false_negatives += 1
        crowd_of = {wanted.categories[index]: index for index in np.flatnonzero(crowd)}
        for row, category in enumerate(found.categories):
            if matched[row].any():
                continue
            if category in crowd_of:
                excused[row] += common[row, crowd_of[category]]
            if excused[row] / found.areas[row] <= 0.5:
                self.counts[category].false_positives += 1
        self.images.add(image_id)

    def _match(
        self,
        common: NDArray[np.int64],
        found: _Segments,
        wanted: _Segments,
        areas: NDArray[np.int64],
        crowd: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Count pairs of equal category with IoU > 0.5; return them as (predicted, true)."""
        pairs, void = common[:, :-1], common[:, -1:]
        union = found.areas[:, None] + areas[None, :] - pairs - void
        same = np.equal.outer(np.array(found.categories), np.array(wanted.categories))
        candidates = same.reshape(pairs.shape) & (pairs > 0) & ~crowd[None, :]
        iou = np.divide(pairs, union, out=np.zeros(pairs.shape), where=candidates)
        matched = iou > 0.5
        for row, column in zip(*np.nonzero(matched), strict=True):
            counts = self.counts[found.categories[row]]
            counts.true_positives += 1
            counts.iou += float(iou[row, column])
        return matched

    def __add__(self, other: PanopticQuality) -> PanopticQuality:
        """Return the sums over both sets of images, as for the parts of several processes.

        Raises:
            ValueError: an image is in both, or the categories differ.
        """
        if self.categories != other.categories:
            raise ValueError("panoptic qualities with different categories cannot be added")
        if twice := self.images & other.images:
            raise ValueError(f"image {min(twice)} was evaluated twice")
        total = PanopticQuality(categories=self.categories)
        total.counts = {key: self.counts[key] + other.counts[key] for key in self.counts}
        total.images = self.images | other.images
        return total

    def scores(self, expected: Iterable[str]) -> PanopticScores:
        """Return the scores.

        Args:
            expected: ids of all images of the ground truth that is scored.

        Raises:
            DataError: an expected image has no prediction, or one has that is not expected.
        """
        wanted = set(expected)
        if self.images != wanted:
            missing, extra = sorted(wanted - self.images), sorted(self.images - wanted)
            raise DataError(
                f"panoptic quality needs one prediction per ground-truth image: {len(missing)} "
                f"missing {missing[:3]}, {len(extra)} not asked for {extra[:3]}; evaluate the "
                "whole set, or cut the ground truth to the same images"
            )
        return PanopticScores(self.categories, self.counts, len(self.images))


@dataclass(frozen=True)
class PanopticScores:
    """Counts of every category, and the averages over them."""

    categories: Mapping[int, Mapping[str, Any]]
    counts: Mapping[int, CategoryCounts]
    num_images: int

    def mean(self, *, isthing: bool | None = None) -> tuple[float, float, float, int]:
        """Return PQ, SQ, RQ (0..1) and the number of categories that occur.

        PQ, SQ and RQ are averaged each by itself, so PQ is not SQ x RQ; not a number where no
        category occurs.

        Args:
            isthing: True averages things, False stuff, None both.
        """
        rows = [
            counts.quality()
            for key, counts in self.counts.items()
            if counts.occurs and isthing in (None, bool(self.categories[key]["isthing"]))
        ]
        if not rows:
            return np.nan, np.nan, np.nan, 0
        quality = np.mean(rows, axis=0)
        return float(quality[0]), float(quality[1]), float(quality[2]), len(rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the averages in percent under the names used in result files."""
        scores: dict[str, Any] = {}
        for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
            *quality, count = self.mean(isthing=isthing)
            for name, value in zip(("PQ", "SQ", "RQ"), quality, strict=True):
                scores[name + suffix] = percent(value)
            scores["categories" + suffix] = count
        return scores | {"images": self.num_images}

    def per_class(self) -> list[dict[str, Any]]:
        """Return a record per category: its counts, and PQ, SQ, RQ in percent or None."""
        records = []
        for key, counts in self.counts.items():
            quality = counts.quality() if counts.occurs else (np.nan, np.nan, np.nan)
            pq, sq, rq = (percent(value) for value in quality)
            category = self.categories[key]
            records.append(
                {"id": key, "name": category["name"], "isthing": bool(category["isthing"])}
                | {"PQ": pq, "SQ": sq, "RQ": rq}
                | {"TP": counts.true_positives, "FP": counts.false_positives}
                | {"FN": counts.false_negatives}
            )
        return records


@dataclass(frozen=True)
class _Segments:
    """The segments of one map, in the order of their records."""

    values: NDArray[np.int64]
    """(S,) ids."""
    categories: list[int]
    areas: NDArray[np.int64]
    """(S,) pixels in the map."""

    @classmethod
    def of(
        cls,
        ids: NDArray[np.integer],
        records: Sequence[Segment],
        known: Mapping[int, Any],
        what: str,
        may_vanish: bool = False,
    ) -> _Segments:
        """Check ids against records. Ground truth may list a segment that others cover wholly."""
        values = np.array([record["id"] for record in records], dtype=np.int64)
        present, counts = np.unique(ids, return_counts=True)
        pixels = dict(zip(present.tolist(), counts.tolist(), strict=True))
        listed = set(values.tolist())
        if len(listed) != len(records) or VOID in listed:
            raise DataError(f"{what}: segment ids must be unique and not {VOID}")
        if unlisted := sorted(set(pixels) - listed - {VOID}):
            raise DataError(f"{what}: the map holds id {unlisted[0]}, which no record lists")
        if not may_vanish and (gone := sorted(listed - set(pixels))):
            raise DataError(f"{what}: segment {gone[0]} is listed but has no pixel")
        for record in records:
            if record["category_id"] not in known:
                raise DataError(
                    f"{what}: segment {record['id']} has category {record['category_id']}, "
                    "which the ground truth's categories do not list"
                )
        areas = np.array([pixels.get(value, 0) for value in values.tolist()], dtype=np.int64)
        return cls(values, [record["category_id"] for record in records], areas)

    def index(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Replace every id by the index of its record; VOID becomes the number of records."""
        order = np.argsort(self.values)
        position = np.searchsorted(self.values[order], ids.ravel())
        return np.where(ids.ravel() == VOID, len(order), np.append(order, 0)[position])


def _check_areas(stated: NDArray[np.int64], truth: _Segments, image_id: str) -> None:
    """Refuse areas below the pixels of their segments, which would make an IoU exceed 1.

    An area may exceed the pixels that are left of a segment, where a later one covers it.
    """
    wrong = np.flatnonzero(stated < truth.areas)
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"ground truth of {image_id}: segment {truth.values[first]} has {truth.areas[first]}"
            f" pixels, but states an area of {stated[first]}; obtain JSON and PNGs of one release"
        )


def _intersections(
    prediction: NDArray[np.integer],
    truth: NDArray[np.integer],
    found: _Segments,
    wanted: _Segments,
) -> NDArray[np.int64]:
    """Count common pixels of every pair; the last column is the ground truth's VOID."""
    shape = (len(found.values) + 1, len(wanted.values) + 1)
    pairs = found.index(prediction) * shape[1] + wanted.index(truth)
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)[:-1]
