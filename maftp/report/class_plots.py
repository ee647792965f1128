"""Plots per class: method against baseline for seen and unseen classes, and confusions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from maftp.report.style import new_figure, save_figure, short
from maftp.results import CONFUSION, Run, read_table

_NAMED = 3
"""Classes written into each panel: those with the largest differences."""
_CLASSES = 16
"""Rows of the confusion matrix: the classes that lose most pixels to others."""


def plot_classes(
    method: Sequence[Run], baseline: Sequence[Run], benchmarks: Sequence[str], path: Path
) -> pd.DataFrame:
    """Plot every class's IoU of the method over that of the baseline; seeds are averaged."""
    parts = []
    for benchmark in benchmarks:
        first = method[0].evaluation(benchmark)
        if first.metric != "semantic":
            continue
        pair = pd.DataFrame(
            {"method": _class_iou(method, benchmark), "baseline": _class_iou(baseline, benchmark)}
        )
        known = pd.DataFrame(first.per_class).set_index("id")
        parts.append(known[["name", "seen"]].join(pair).assign(benchmark=benchmark).reset_index())
    numbers = pd.concat(parts).dropna(subset=["method", "baseline"])
    shown = list(dict.fromkeys(numbers.benchmark))
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(width=3.6 * columns, height=3.7 * rows, rows=rows, columns=columns)
    for axes, benchmark in zip(figure.axes, shown, strict=False):
        part = numbers[numbers.benchmark == benchmark]
        axes.plot([0, 100], [0, 100], color="0.6", linewidth=1)
        for seen, marker, face in ((True, "o", "black"), (False, "s", "white")):
            some = part[part.seen == seen]
            axes.plot(
                some.baseline, some.method, marker, color="black", markerfacecolor=face,
                markersize=4.5, label=f"{'seen' if seen else 'unseen'} ({len(some)})",
            )  # fmt: skip
        far = (part.method - part.baseline).abs().nlargest(_NAMED).index
        for row in part.loc[far].itertuples():
            axes.annotate(
                short([row.name])[0], (row.baseline, row.method), xytext=(4, 3),
                textcoords="offset points", fontsize=7,
            )  # fmt: skip
        axes.set(xlabel=f"IoU of {baseline[0].variant}", ylabel=f"IoU of {method[0].variant}")
        axes.set(title=benchmark, xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    save_figure(figure, path)
    return numbers[["benchmark", "id", "name", "seen", "method", "baseline"]]


def _class_iou(runs: Sequence[Run], benchmark: str) -> pd.Series:
    tables = [pd.DataFrame(run.evaluation(benchmark).per_class) for run in runs]
    return pd.concat(tables).groupby("id").IoU.mean()


def plot_confusion(run: Run, benchmark: str, path: Path) -> pd.DataFrame:
    """Plot which classes are taken for which: the classes that lose most pixels to others.

    Raises:
        MaftpError: the statistics are missing.
    """
    result = run.evaluation(benchmark)
    names = short([c["name"] for c in result.per_class])
    matrix = _matrix(result.statistics / CONFUSION, len(names))
    lost = matrix.sum(axis=1) - np.diagonal(matrix)
    order = [int(k) for k in np.argsort(-lost, kind="stable")[:_CLASSES] if lost[k] > 0]
    kept = sorted({*order, *(int(np.argmax(_others(matrix, k))) for k in order)})
    share = matrix[order] / np.maximum(matrix[order].sum(axis=1, keepdims=True), 1)
    height = 0.3 * len(order) + 2.2
    figure = new_figure(width=0.32 * len(kept) + 3.2, height=height)
    axes = figure.axes[0]
    axes.grid(visible=False)
    image = axes.imshow(100 * share[:, kept], cmap="Greys", vmin=0, vmax=100, aspect="auto")
    for y, k in enumerate(order):
        for x, column in enumerate(kept):
            value = 100 * share[y, column]
            if value >= 5:
                own = {"fontweight": "bold"} if column == k else {}
                colour = "white" if value > 55 else "black"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=colour,
                          fontsize=6.5, **own)  # fmt: skip
    axes.set_yticks(range(len(order)), [names[k] for k in order])
    axes.set_xticks(range(len(kept)), [names[k] for k in kept], rotation=60, ha="right")
    axes.set(xlabel="predicted", ylabel="ground truth", title=f"{run.variant} on {benchmark}")
    figure.colorbar(image, label="percent of the true class")
    save_figure(figure, path)
    return _pairs(matrix, names)


def _others(matrix: np.ndarray, k: int) -> np.ndarray:
    row = matrix[k].copy()
    row[k] = -1
    return row


def _matrix(path: Path, size: int) -> np.ndarray:
    """Return pixels by true and predicted class."""
    columns = ("truth", "predicted", "pixels")
    table = read_table(path, what="statistics", remedy="evaluate the run", columns=columns)
    matrix = np.zeros((size, size))
    matrix[table.truth, table.predicted] = table.pixels
    return matrix


def _pairs(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Return every confusion, the largest first."""
    truth, predicted = np.nonzero(matrix)
    pixels = matrix[truth, predicted]
    table = pd.DataFrame(
        {
            "truth": [names[k] for k in truth],
            "predicted": [names[k] for k in predicted],
            "pixels": pixels.astype(np.int64),
            "percent_of_truth": (100 * pixels / matrix.sum(axis=1)[truth]).round(2),
        }
    )
    return table[truth != predicted].sort_values("pixels", ascending=False, kind="stable")
