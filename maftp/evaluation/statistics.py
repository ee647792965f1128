"""What a benchmark's scores are sums of, image by image: for bootstrap intervals and confusions.

Two small CSV files: `images.csv`, a row per image and class, and, of semantic benchmarks,
`confusion.csv`, a row per pair of classes. All scores follow from them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.evaluation.panoptic import CategoryCounts

IMAGES, CONFUSION = "images.csv", "confusion.csv"
SEMANTIC_COLUMNS = ("image", "class", "correct", "truth", "predicted")
PANOPTIC_COLUMNS = (
    "image", "class", "iou", "true_positives", "false_positives", "false_negatives",
)  # fmt: skip
CONFUSION_COLUMNS = ("truth", "predicted", "pixels")

Rows = list[tuple[Any, ...]]


def semantic_rows(image: str, counts: NDArray[np.integer]) -> Rows:
    """Return the row of every class in the truth or prediction of one image.

    Args:
        image: its name.
        counts: (N, N + 1) pixels by predicted and true class; the last column is ignored.
    """
    scored = counts[:, :-1]
    correct, truth, predicted = np.diagonal(scored), scored.sum(axis=0), scored.sum(axis=1)
    return [
        (image, int(k), int(correct[k]), int(truth[k]), int(predicted[k]))
        for k in np.flatnonzero(truth + predicted)
    ]


def panoptic_rows(image: str, counts: Mapping[int, CategoryCounts]) -> Rows:
    """Return the row of every category that occurs in one image."""
    return [
        (
            image,
            key,
            round(found.iou, 6),
            found.true_positives,
            found.false_positives,
            found.false_negatives,
        )
        for key, found in counts.items()
        if found.occurs
    ]


def confusion_rows(counts: NDArray[np.integer]) -> Rows:
    """Return truth, prediction and pixels of every pair of classes that occurs."""
    predicted, truth = np.nonzero(counts[:, :-1])
    return [(int(t), int(p), int(counts[p, t])) for p, t in zip(predicted, truth, strict=True)]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows under a header."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
