"""Small numbers of the diagnosis: reliability of probabilities, recall, and shares of a gap."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


def reliability(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], *, bins: int = BINS
) -> dict[str, Any]:
    """Compare stated probabilities with how often they came true.

    The expected calibration error of Guo et al. (ICML 2017): the mean over equally wide bins of
    the distance between confidence and accuracy, each bin weighted by what falls into it.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,).
        bins: how many; each holds its upper edge, the first one zero as well.

    Returns:
        In percent `ece`, `confidence` and `accuracy` of all, None where there are none; `count`;
        and a record for each bin that holds something.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    records, error = [], 0.0
    for index in range(bins):
        inside = place == index
        if not inside.any():
            continue
        stated, came = float(confidence[inside].mean()), float(right[inside].mean())
        error += inside.mean() * abs(stated - came)
        records.append(
            {"low": 100 * index / bins, "high": 100 * (index + 1) / bins}
            | {"count": int(inside.sum()), "confidence": 100 * stated, "accuracy": 100 * came}
        )
    return {
        "count": len(confidence),
        "ece": 100 * error if len(confidence) else None,
        "confidence": share(confidence),
        "accuracy": share(right),
        "bins": records,
    }


def share(values: NDArray[np.floating] | NDArray[np.bool_]) -> float | None:
    """Return the mean in percent, or None of nothing."""
    return 100 * float(values.mean()) if values.size else None


def gap_shares(parts: Sequence[str], score: Callable[[Collection[str]], float]) -> dict[str, float]:
    """Share out between parts what repairing all of them adds to a score.

    A repair is worth more or less by what has been repaired before it; the mean over all orders
    (the Shapley value) is the only division that adds up and treats all parts alike.

    Args:
        parts: names of the repairs.
        score: with some of them made.
    """
    found = {}
    for part in parts:
        others = [name for name in parts if name != part]
        found[part] = sum(
            factorial(size) * factorial(len(others) - size) / factorial(len(parts))
            * (score({*before, part}) - score(set(before)))
            for size in range(len(parts))
            for before in combinations(others, size)
        )  # fmt: skip
    return found
