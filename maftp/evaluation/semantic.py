"""Semantic scores from one exact confusion matrix: mIoU in both protocols, fwIoU, mACC, pACC.

Two definitions of mIoU are in use. With IoU_c defined for the classes of the ground truth, protocol
(a) divides their sum by the number of classes that occur in ground truth *or* prediction
(Detectron2 up to v0.6), protocol (b) by the number that occur in the ground truth (Detectron2 since
July 2022). They differ where a benchmark names classes that its images never show, as PC-459 does.
Pixels to ignore count neither as ground truth nor as prediction (MAFT+, ECCV 2024, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.errors import DataError


class ConfusionMatrix:
    """Pixel counts `counts[p, g]`: predicted class p, ground truth g; last column: ignored.

    Args:
        num_classes: N, the classes that can be predicted.
        ignore_label: ground-truth value of pixels that are not scored; outside 0..N-1.

    Raises:
        ValueError: `ignore_label` is a class.
    """

    def __init__(self, *, num_classes: int, ignore_label: int) -> None:
        if 0 <= ignore_label < num_classes:
            raise ValueError(f"ignore_label {ignore_label} is one of the {num_classes} classes")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.num_images = 0
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def update(
        self, prediction: NDArray[np.integer], truth: NDArray[np.integer], *, source: str
    ) -> NDArray[np.int64]:
        """Add one image and return its counts alone.

        Args:
            prediction: (H, W) classes 0..N-1.
            truth: (H, W) classes 0..N-1 or the ignore label.
            source: the label file, named in errors.

        Raises:
            DataError: the shapes differ, or the ground truth holds another value.
            ValueError: the prediction holds no class.
        """
        if prediction.shape != truth.shape:
            raise DataError(
                f"{source}: the label map is {_size(truth)} but the prediction is "
                f"{_size(prediction)} (height x width); make image and label map the same size "
                "(a rotated photograph has its EXIF orientation set)"
            )
        columns = self._columns(truth, source)
        rows = prediction.ravel().astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.num_classes:
            raise ValueError(f"{source}: prediction outside 0..{self.num_classes - 1}")
        pairs = rows * (self.num_classes + 1) + columns
        counts = np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)
        self.counts += counts
        self.num_images += 1
        return counts

    def _columns(self, truth: NDArray[np.integer], source: str) -> NDArray[np.int64]:
        values = truth.ravel().astype(np.int64)
        ignored = values == self.ignore_label
        wrong = ~ignored & ((values < 0) | (values >= self.num_classes))
        if wrong.any():
            raise DataError(
                f"{source}: label {values[wrong][0]} is neither one of the {self.num_classes} "
                f"classes (0..{self.num_classes - 1}) nor the ignore value {self.ignore_label}; "
                "convert the data set again with the vocabulary it is scored with"
            )
        values[ignored] = self.num_classes
        return values

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return the matrix of both sets of images, as for the parts of several processes.

        Raises:
            ValueError: the matrices are of different benchmarks.
        """
        if (self.num_classes, self.ignore_label) != (other.num_classes, other.ignore_label):
            raise ValueError("confusion matrices with different classes cannot be added")
        total = ConfusionMatrix(num_classes=self.num_classes, ignore_label=self.ignore_label)
        total.counts = self.counts + other.counts
        total.num_images = self.num_images + other.num_images
        return total

    def scores(self, seen: Sequence[bool] | None = None) -> SemanticScores:
        """Return the scores of all images so far.

        Args:
            seen: for each class whether training knew one of its names; None leaves the split out.

        Raises:
            ValueError: `seen` has not one entry per class.
        """
        scored = self.counts[:, :-1]
        correct = np.diagonal(scored).astype(np.float64)
        truth = scored.sum(axis=0).astype(np.float64)
        union = truth + scored.sum(axis=1) - correct
        present = truth > 0
        iou = np.divide(correct, union, out=np.full_like(correct, np.nan), where=present)
        accuracy = np.divide(correct, truth, out=np.full_like(correct, np.nan), where=present)
        everything = np.ones(self.num_classes, dtype=bool)
        parts = {"all": _mean_iou(iou, present, union > 0, everything)}
        if seen is not None:
            known = np.asarray(seen, dtype=bool)
            if known.shape != present.shape:
                raise ValueError(f"seen has {known.size} entries for {self.num_classes} classes")
            parts["seen"] = _mean_iou(iou, present, union > 0, known)
            parts["unseen"] = _mean_iou(iou, present, union > 0, ~known)
        share = truth / truth.sum() if truth.any() else np.full_like(truth, np.nan)
        return SemanticScores(
            mean_iou=parts["all"],
            seen=parts.get("seen"),
            unseen=parts.get("unseen"),
            frequency_weighted_iou=float(share[present] @ iou[present]) if truth.any() else np.nan,
            mean_accuracy=_mean(accuracy[present]),
            pixel_accuracy=float(correct.sum() / truth.sum()) if truth.any() else np.nan,
            iou=iou,
            accuracy=accuracy,
            num_images=self.num_images,
        )


@dataclass(frozen=True)
class MeanIoU:
    """Mean IoU of some classes in both protocols, 0..1; not a number where no class occurs."""

    union_denominator: float
    """Protocol (a)."""
    ground_truth_classes: float
    """Protocol (b)."""
    num_in_union: int
    """Classes that occur in ground truth or prediction, the divisor of (a)."""
    num_in_ground_truth: int
    """Classes that occur in the ground truth, the divisor of (b)."""
    num_classes: int
    """Classes of this part of the vocabulary."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Return percentages under the names used in result files."""
        return {
            "mIoU_a": percent(self.union_denominator),
            "mIoU_b": percent(self.ground_truth_classes),
            "classes_in_union": self.num_in_union,
            "classes_in_ground_truth": self.num_in_ground_truth,
            "classes": self.num_classes,
        }


@dataclass(frozen=True)
class SemanticScores:
    """Scores of a benchmark, 0..1; `as_dict` gives them in percent."""

    mean_iou: MeanIoU
    seen: MeanIoU | None
    unseen: MeanIoU | None
    frequency_weighted_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: NDArray[np.float64]
    """(N,) per class; not a number for classes absent from the ground truth."""
    accuracy: NDArray[np.float64]
    """(N,) per class; not a number for classes absent from the ground truth."""
    num_images: int

    def as_dict(self) -> dict[str, Any]:
        """Return the scores in percent under the names used in result files."""
        scores: dict[str, Any] = self.mean_iou.as_dict() | {
            "fwIoU": percent(self.frequency_weighted_iou),
            "mACC": percent(self.mean_accuracy),
            "pACC": percent(self.pixel_accuracy),
            "images": self.num_images,
        }
        for name, part in (("seen", self.seen), ("unseen", self.unseen)):
            if part is not None:
                scores[name] = part.as_dict()
        return scores


def percent(value: float) -> float | None:
    """Return 100 x `value`, or None (JSON's null) for not-a-number."""
    return None if np.isnan(value) else 100.0 * float(value)


def _mean_iou(
    iou: NDArray[np.float64],
    present: NDArray[np.bool_],
    in_union: NDArray[np.bool_],
    part: NDArray[np.bool_],
) -> MeanIoU:
    total = float(iou[present & part].sum())
    num_union, num_truth = int((in_union & part).sum()), int((present & part).sum())
    return MeanIoU(
        union_denominator=total / num_union if num_truth else np.nan,
        ground_truth_classes=total / num_truth if num_truth else np.nan,
        num_in_union=num_union,
        num_in_ground_truth=num_truth,
        num_classes=int(part.sum()),
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else np.nan


def _size(array: NDArray[np.integer]) -> str:
    return " x ".join(str(side) for side in array.shape)
