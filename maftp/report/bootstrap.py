"""How far a difference between two variants could be chance: of test images, and of seeds.

Images are drawn with replacement, the same for both variants (a paired bootstrap), and both scores
are computed anew from the sums over the drawn images. With several seeds their spread is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

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


def score_interval(counts: Counts, *, draws: int = 1000) -> tuple[float, float]:
    """Return the 95 % interval of one run's score, about the choice of images alone, in percent."""
    weights = _draw(len(counts.images), draws, np.random.default_rng(_SEED))
    low, high = np.percentile(score(counts, weights), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A difference between two variants' scores and its 95 % interval, in points."""

    mean: float
    low: float
    high: float
    covers: str
    """The kinds of chance that the interval is about: "images", or "seeds and images"."""


def difference(
    benchmarks: Sequence[tuple[Sequence[Counts], Sequence[Counts]]], *, draws: int = 1000
) -> Difference:
    """Return the mean difference over benchmarks.

    With several seeds of each variant the interval is about the choice of seeds and of images, else
    about the choice of images alone.

    Args:
        benchmarks: for each, the counts of every seed of a variant, and of the one it is compared
            with. All benchmarks have the same seeds.
        draws: of the bootstrap.
    """
    rng = np.random.default_rng(_SEED)
    scores = [_drawn_scores(*sides, draws=draws, rng=rng) for sides in benchmarks]
    first, second = (np.mean(side, axis=0) for side in zip(*scores, strict=True))
    drawn = first[:, 1:].mean(axis=0) - second[:, 1:].mean(axis=0)
    if min(len(first), len(second)) > 1:
        images = len(benchmarks[0][0][0].images)
        return seed_interval(first[:, 0], second[:, 0], drawn.std(ddof=1), images)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(float(first[:, 0].mean() - second[:, 0].mean()), low, high, "images")


def seed_interval(
    first: NDArray[np.float64], second: NDArray[np.float64], image_error: float, images: int
) -> Difference:
    """Return the interval of a difference between means over seeds, by Welch's t.

    A bootstrap over three seeds would give intervals that are too narrow: it does not know how
    poorly three numbers tell their spread.

    Args:
        first: score of each seed of a variant.
        second: score of each seed of the one it is compared with.
        image_error: standard error that the choice of images gives the difference.
        images: that were scored.
    """
    parts = [(np.var(scores, ddof=1) / len(scores), len(scores) - 1) for scores in (first, second)]
    parts.append((image_error**2, max(images - 1, 1)))
    variance = sum(part for part, _ in parts)
    mean = float(np.mean(first) - np.mean(second))
    if variance < np.finfo(float).eps:
        return Difference(mean, mean, mean, "seeds and images")
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    reach = float(stdtrit(freedom, 0.975) * np.sqrt(variance))
    return Difference(mean, mean - reach, mean + reach, "seeds and images")


def _drawn_scores(
    first: Sequence[Counts], second: Sequence[Counts], *, draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both variants' scores by seed, (seeds, 1 + draws): of all images, then of draws."""
    flat = align([*first, *second])
    images = len(flat[0].images)
    weights = np.concatenate([np.ones((1, images)), _draw(images, draws, rng)])
    scores = np.array([score(counts, weights) for counts in flat])
    return scores[: len(first)], scores[len(first) :]


def _draw(images: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each image counts in each draw, (draws, images)."""
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(float)
