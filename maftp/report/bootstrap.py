"""Paired bootstrap over images: how far a difference between two runs could be chance.

Images are drawn with replacement, the same for both runs, and both scores are computed anew from
the sums over the drawn images. The interval is about the choice of test images; seeds are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maftp.errors import MaftpError
from maftp.results import COUNTS, read_counts

_SEED = 0


@dataclass(frozen=True)
class Counts:
    """What a score is a function of, for every image and class of one benchmark."""

    images: tuple[str, ...]
    classes: tuple[int, ...]
    columns: Mapping[str, NDArray[np.float64]]
    """(images, classes) each."""

    @property
    def is_panoptic(self) -> bool:
        """Whether the score is PQ rather than mIoU."""
        return "iou" in self.columns


def counts_of(statistics: Path, metric: str) -> Counts:
    """Read the statistics of one evaluation.

    Raises:
        MaftpError: they are missing or damaged.
    """
    table, names = read_counts(statistics, metric), COUNTS[metric]
    grids = {name: table.pivot(index="image", columns="class", values=name) for name in names}
    first = grids[names[0]]
    return Counts(
        images=tuple(first.index),
        classes=tuple(int(value) for value in first.columns),
        columns={name: grid.fillna(0).to_numpy(np.float64) for name, grid in grids.items()},
    )


def align(parts: Sequence[Counts]) -> list[Counts]:
    """Give several runs' counts of one benchmark the same classes and images.

    Raises:
        MaftpError: an image stands in one and not in another.
    """
    classes = tuple(sorted({value for part in parts for value in part.classes}))
    images = tuple(sorted({image for part in parts for image in part.images}))
    aligned = []
    for part in parts:
        if len(part.images) != len(images):
            raise MaftpError("the runs were scored on different images; evaluate them again")
        rows = np.argsort(part.images)
        places = np.searchsorted(classes, part.classes)
        columns = {}
        for name, values in part.columns.items():
            wide = np.zeros((len(images), len(classes)))
            wide[:, places] = values[rows]
            columns[name] = wide
        aligned.append(Counts(images, classes, columns))
    return aligned


def score(counts: Counts, weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return mIoU over the classes of the ground truth, or PQ, in percent.

    Args:
        counts: of one run.
        weights: (draws, images) how often each image counts.

    Returns:
        (draws,).
    """
    sums = {name: weights @ values for name, values in counts.columns.items()}  # (draws, classes)
    if counts.is_panoptic:
        found = sums["true_positives"]
        weight = found + (sums["false_positives"] + sums["false_negatives"]) / 2
        return _mean(sums["iou"], weight, weight > 0)
    union = sums["truth"] + sums["predicted"] - sums["correct"]
    return _mean(sums["correct"], union, sums["truth"] > 0)


def _mean(
    above: NDArray[np.float64], below: NDArray[np.float64], counted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    ratio = np.divide(above, below, out=np.zeros_like(above), where=counted)
    return 100 * ratio.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


@dataclass(frozen=True)
class Difference:
    """A difference between two runs' scores and its 95 % interval, in points."""

    mean: float
    low: float
    high: float


def difference(
    pairs: Sequence[Sequence[tuple[Counts, Counts]]], *, draws: int = 1000
) -> Difference:
    """Return the mean difference over benchmarks and seeds.

    Args:
        pairs: per benchmark and seed, the counts of the run and of the one it is compared with.
        draws: of the bootstrap.
    """
    rng = np.random.default_rng(_SEED)
    whole, drawn = [], []
    for seeds in pairs:
        flat = align([counts for pair in seeds for counts in pair])
        images = len(flat[0].images)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(float)
        weights = np.concatenate([np.ones((1, images)), weights])
        scores = [score(counts, weights) for counts in flat]
        mean = np.mean([a - b for a, b in zip(scores[::2], scores[1::2], strict=True)], axis=0)
        whole.append(mean[0])
        drawn.append(mean[1:])
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Difference(float(np.mean(whole)), float(low), float(high))
