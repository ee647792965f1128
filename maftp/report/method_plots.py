"""Plots about the method: ablation cells against the full model, and the drift of CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from maftp.errors import MaftpError
from maftp.report.style import FILLS, HATCHES, new_figure, save_figure
from maftp.results import Run


def plot_ablations(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Plot the difference of every cell to the full model with its bootstrap interval.

    Raises:
        MaftpError: there is no cell but the full model.
    """
    metrics = [name for name in ("mIoU", "PQ") if f"{name} difference" in table]
    cells = table[table[[f"{name} difference" for name in metrics]].notna().any(axis=1)]
    if not metrics or cells.empty:
        raise MaftpError("the table of ablations has no cell but the full model")
    figure = new_figure(
        width=3.2 + 4.2 * len(metrics), height=0.28 * len(cells) + 1.4, columns=len(metrics)
    )
    for axes, name in zip(figure.axes, metrics, strict=True):
        mean = cells[f"{name} difference"]
        error = [mean - cells[f"{name} low"], cells[f"{name} high"] - mean]
        places = range(len(cells))
        axes.axvline(0, color="black", linewidth=1)
        axes.errorbar(mean, places, xerr=error, fmt="o", color="black", capsize=3, markersize=5)
        axes.set_yticks(places, cells.title if axes is figure.axes[0] else [])
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set(xlabel=f"{name} minus the full model's, points")
    save_figure(figure, path)
    columns = ["study", "title", "run", "key", "value"]
    return cells[
        columns + [f"{n} {part}" for n in metrics for part in ("difference", "low", "high")]
    ]


def read_drift(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Gather what `maftp drift` measured, averaged over the runs of each title.

    Raises:
        MaftpError: a measurement is missing or damaged.
    """
    table = pd.DataFrame(
        {"run": title, "classes": part, **drift[part]}
        for title, own in runs.items()
        for drift in [run.drift for run in own]
        for part in ("all", "seen", "unseen")
    )
    return table.groupby(["run", "classes"], sort=False).mean(numeric_only=True).reset_index()


def plot_drift(numbers: pd.DataFrame, path: Path, *, benchmark: str) -> pd.DataFrame:
    """Plot the naming of true regions by the original CLIP and by each fine-tuned one."""
    parts = [part for part in ("all", "seen", "unseen") if _regions(numbers, part)]
    runs = list(dict.fromkeys(numbers.run))
    bars = ["original CLIP", *runs]
    figure = new_figure(width=9.5, height=4.0, columns=2)
    accuracy, cosine = figure.axes
    width = 0.8 / len(bars)
    for index, bar in enumerate(bars):
        rows = numbers[numbers.run == (runs[0] if index == 0 else bar)].set_index("classes")
        column = "accuracy_before" if index == 0 else "accuracy_after"
        style = {
            "color": FILLS[index % len(FILLS)],
            "hatch": HATCHES[index % len(HATCHES)],
            "edgecolor": "black",
        }
        places = [p + width * (index - (len(bars) - 1) / 2) for p in range(len(parts))]
        accuracy.bar(places, rows.loc[parts, column], width, label=bar, **style)
        if index:
            cosine.bar(places, rows.loc[parts, "cosine"], width, label=bar, **style)
    labels = [f"{part}\n({_regions(numbers, part):.0f} regions)" for part in parts]
    for axes in figure.axes:
        axes.set_xticks(range(len(parts)), labels)
        axes.grid(axis="x", visible=False)
    accuracy.set(ylabel="true regions named right, percent", title=f"naming, {benchmark}")
    cosine.set(ylabel="cosine with the original CLIP", title="embeddings of the regions")
    handles, names = accuracy.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)
    return numbers


def _regions(numbers: pd.DataFrame, part: str) -> float:
    return float(numbers[numbers.classes == part].regions.max())
