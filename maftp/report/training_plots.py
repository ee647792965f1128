"""Plots about a training: its losses over the optimizer steps."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from maftp.errors import DataError
from maftp.report.style import DASHES, new_figure, save_figure
from maftp.results import read_table

_KINDS = {
    "class": "loss_ce",
    "mask": "loss_mask",
    "dice": "loss_dice",
    "mask-aware": "ranking_loss",
    "compensation": "rc_loss",
}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")


def plot_losses(history: Path, path: Path, *, title: str) -> None:
    """Plot the losses of a run, summed over decoder layers; each has its own dash pattern.

    Args:
        history: CSV with the column `step` and loss columns under the model's names.
        path: PNG, or another format that matplotlib knows by its suffix.
        title: heading, the run's name.

    Raises:
        DataError: the history is missing, or holds no such columns.
    """
    losses = _read_losses(history)
    figure = new_figure(width=7.0, height=4.2)
    axes = figure.axes[0]
    total = losses.sum(axis=1)
    axes.plot(losses.index, total, color="black", linewidth=2.4, label="total")
    for (name, values), dash, colour in zip(losses.items(), DASHES, _COLOURS, strict=False):
        axes.plot(losses.index, values, linestyle=dash, color=colour, linewidth=1.6, label=name)
    axes.set(xlabel="optimizer step", ylabel="weighted loss, summed over layers", title=title)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def _read_losses(history: Path) -> pd.DataFrame:
    """Return the sum of each kind of loss, a row per step."""
    table = read_table(history, what="history", remedy="train the run", columns=["step"])
    columns = {
        kind: [column for column in table if column.startswith(prefix)]
        for kind, prefix in _KINDS.items()
    }
    losses = {kind: table[names].sum(axis=1) for kind, names in columns.items() if names}
    if not losses:
        raise DataError(
            f"{history}: no column such as loss_ce among {', '.join(table)}; train the run again"
        )
    return pd.DataFrame(losses).set_index(table["step"])
