"""Plots of what `maftp diagnose` measured; each says in a sentence what its numbers show."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from maftp.errors import MaftpError
from maftp.report.style import (
    COLOURS,
    DASHES,
    FILLS,
    HATCHES,
    MARKERS,
    new_figure,
    save_figure,
    short,
)
from maftp.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = ("masks", "classes", "void")
WORDS = ("same meaning", "more general", "more specific")
"""Relations of a wrong name to the right one that make an error one of words."""
_ERRORS = (*WORDS, "same kind", "unrelated")
_GROUPS = ("seen", "unseen", "small", "medium", "large")
_NAMINGS = {
    "clip": "CLIP,\ntrue mask",
    "method": "method,\ntrue mask",
    "proposal": "method,\nbest proposal",
}
_NEGLIGIBLE = 1.0
"""Points of mean confidence that no sentence makes anything of."""
_INCHES_PER_LETTER = 0.083
_LEGEND_MARK = 7
"""Letters' room for a mark of the legend and the space around it."""

Runs = Mapping[str, Run]
"""Diagnosed runs by the title they are shown under; the sentences are about the first."""


def plot_gap(runs: Runs, benchmark: str, path: Path) -> tuple[pd.DataFrame, str]:
    """Plot what each run scores on each benchmark, and what masks, classes and void take."""
    numbers = pd.DataFrame(
        {"benchmark": name, "run": title, **found["gap"]}
        for name in dict.fromkeys([benchmark, *(b for run in runs.values() for b in run.diagnosed)])
        for title, found in _found(runs, name).items()
    ).dropna(subset=["score"])
    if numbers.empty:
        raise MaftpError(f"no run was diagnosed on {benchmark}; run `maftp diagnose`")
    row = numbers[numbers.benchmark == benchmark].iloc[0]
    first, second, third = sorted(PARTS, key=lambda part: -row[part])
    sentence = (
        f"{row.run} scores {row.score:.1f} on {benchmark} and loses most to {first} "
        f"({row[first]:.1f} points), then to {second} ({row[second]:.1f}) and {third} "
        f"({row[third]:.1f})."
    )
    figure = new_figure(width=9.0, height=0.27 * len(numbers) + 1.9)
    axes = figure.axes[0]
    labels = [f"{row.benchmark}  {row.run}" for row in numbers.itertuples()]
    parts = {"score": numbers.score, **{f"lost to {part}": numbers[part] for part in PARTS}}
    if (numbers.rest > 0.05).any():
        parts["by the metric's own rules"] = numbers.rest
    _stacked(axes, labels, parts)
    axes.set(xlabel="percent", xlim=(0, 100))
    _finish(figure, sentence, path)
    return numbers, sentence


def plot_recall(runs: Runs, benchmark: str, path: Path) -> tuple[pd.DataFrame, str]:
    """Plot how many true regions a proposal finds, by IoU, and at 0.5 by size."""
    found = _found(runs, benchmark)
    numbers = pd.DataFrame(
        {"run": title, **row} for title, one in found.items() for row in one["recall"]
    )
    title, own = next(iter(found.items()))
    at = {row["iou"]: row for row in own["recall"]}
    sentence = (
        f"{title} proposes {at[0.5]['all']:.0f} % of the true regions of {benchmark} with an IoU "
        f"of 0.5 or more{_by_part(at[0.5])}, and {at[0.9]['all']:.0f} % with 0.9 or more."
    )
    figure = new_figure(width=9.5, height=4.4, columns=2)
    curves, bars = figure.axes
    for index, (name, rows) in enumerate(numbers.groupby("run", sort=False)):
        curves.plot(rows.iou, rows["all"], label=name, **_line(index))
    curves.set(xlabel="IoU that counts as found", ylabel="true regions found, percent")
    curves.set(xlim=(0, 1), ylim=(0, 102))
    half = numbers[numbers.iou == 0.5].set_index("run")
    shown = [part for part in _GROUPS if half[part].notna().any()]
    _grouped(bars, half, shown, dict(zip(shown, shown, strict=True)))
    bars.set(ylabel="found at IoU 0.5, percent", ylim=(0, 102))
    curves.legend(frameon=False, fontsize=8)
    _finish(figure, sentence, path, legend_of=bars)
    return numbers, sentence


def plot_naming(runs: Runs, benchmark: str, path: Path) -> tuple[pd.DataFrame, str]:
    """Plot how many true regions get the right name, of seen and of unseen classes."""
    found = _found(runs, benchmark)
    numbers = pd.DataFrame(
        {"run": title, "classes": part, **values}
        for title, one in found.items()
        for part, values in one["naming"].items()
    )
    title, own = next(iter(found.items()))
    naming = own["naming"]
    sentence = (
        f"On {benchmark} {title} names {naming['all']['method']:.0f} % of the true regions right "
        f"when it is given their masks"
        + _by_part({part: naming[part]["method"] for part in naming})
        + f"; its own best proposals bring {naming['all']['proposal']:.0f} %."
    )
    shown = [part for part in ("seen", "unseen") if numbers[numbers.classes == part].regions.any()]
    figure = new_figure(width=4.9 * max(len(shown), 1), height=4.4, columns=max(len(shown), 1))
    for axes, part in zip(figure.axes, shown, strict=False):
        rows = numbers[numbers.classes == part].set_index("run")
        _grouped(axes, rows, list(_NAMINGS), _NAMINGS)
        axes.set(title=f"{part} classes ({rows.regions.max():.0f} regions)", ylim=(0, 102))
    figure.axes[0].set(ylabel="regions named right, percent")
    _finish(figure, sentence, path, legend_of=figure.axes[0])
    return numbers, sentence


def plot_calibration(runs: Runs, benchmark: str, path: Path) -> tuple[pd.DataFrame, str]:
    """Plot stated probabilities against how often they come true, of classes and of void."""
    found = _found(runs, benchmark)
    numbers = pd.DataFrame(
        {"run": title, "of": kind, "ece": one["calibration"][kind]["ece"], **record}
        for title, one in found.items()
        for kind in ("classes", "void")
        for record in one["calibration"][kind]["bins"]
    )
    title, own = next(iter(found.items()))
    classes, void = own["calibration"]["classes"], own["calibration"]["void"]
    sentence = (
        f"On {benchmark} {title} is {_confident(classes)} about classes "
        f"({classes['confidence']:.0f} % stated, {classes['accuracy']:.0f} % right; calibration "
        f"error {classes['ece']:.1f}); it states that {void['confidence']:.0f} % of its proposals "
        f"are objects, and {void['accuracy']:.0f} % are (error {void['ece']:.1f})."
    )
    figure = new_figure(width=9.5, height=4.9, columns=2)
    for axes, kind in zip(figure.axes, ("classes", "void"), strict=True):
        axes.plot([0, 100], [0, 100], color="0.6", linewidth=1)
        rows_of = numbers[numbers.of == kind].groupby("run", sort=False)
        for index, (name, rows) in enumerate(rows_of):
            style = _line(index)
            axes.plot(rows.confidence, rows.accuracy, **style | {"linewidth": 0.8, "marker": ""})
            axes.plot([], [], label=name, **style)
            area = 8 + 200 * rows["count"] / rows["count"].sum()
            axes.scatter(rows.confidence, rows.accuracy, area, style["color"], style["marker"])
        axes.set(xlim=(0, 100), ylim=(-2, 102), aspect="equal", xlabel="stated, percent")
    figure.axes[0].set(title="class of a true region", ylabel="right, percent")
    figure.axes[1].set(title="a proposal is an object", ylabel="objects, percent")
    _finish(figure, sentence, path, legend_of=figure.axes[0])
    return numbers, sentence


def plot_words(runs: Runs, benchmark: str, path: Path) -> tuple[pd.DataFrame, str]:
    """Plot what wrong names have to do with the right ones, in percent of all errors."""
    found = _found(runs, benchmark)
    numbers = pd.DataFrame(
        {"run": title, "counted": counted, **_of_errors(one["words"][counted])}
        for title, one in found.items()
        for counted in ("pixels", "regions")
        if counted in one["words"]
    )
    title, own = next(iter(found.items()))
    row, counted = numbers.iloc[0], numbers.iloc[0].counted
    sentence = (
        f"Of the {counted} that {title} gets wrong on {benchmark}, "
        f"{sum(row[list(WORDS)]):.0f} % are a matter of words (same meaning, more general, more "
        f"specific) and {row['same kind']:.0f} % stay within a kind"
        + _commonest(own["words"]["confusions"])
        + "."
    )
    figure = new_figure(width=9.0, height=0.3 * len(numbers) + 2.0)
    labels = [f"{row.run}, {row.counted}" for row in numbers.itertuples()]
    _stacked(figure.axes[0], labels, {name: numbers[name] for name in _ERRORS})
    figure.axes[0].set(xlabel="percent of what is wrong", xlim=(0, 100))
    _finish(figure, sentence, path)
    return numbers, sentence


PLOTS: dict[str, Callable[[Runs, str, Path], tuple[pd.DataFrame, str]]] = {
    "gap": plot_gap,
    "recall": plot_recall,
    "naming": plot_naming,
    "calibration": plot_calibration,
    "words": plot_words,
}
"""By the name of the figure."""


def _found(runs: Runs, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the diagnoses of the runs that were diagnosed on a benchmark."""
    found = {
        title: run.diagnosis(benchmark) for title, run in runs.items() if benchmark in run.diagnosed
    }
    if not found:
        raise MaftpError(f"no run was diagnosed on {benchmark}; run `maftp diagnose`")
    return found


def _by_part(values: Mapping[str, float | None]) -> str:
    """Return the values of seen and unseen classes, where there are both."""
    if values["seen"] is None or values["unseen"] is None:
        return ""
    return f" ({values['seen']:.0f} % of seen, {values['unseen']:.0f} % of unseen classes)"


def _confident(calibration: Mapping[str, float]) -> str:
    over = calibration["confidence"] - calibration["accuracy"]
    if abs(over) < _NEGLIGIBLE:
        return "neither over- nor underconfident"
    return "overconfident" if over > 0 else "underconfident"


def _of_errors(shares: Mapping[str, float | None]) -> dict[str, float]:
    wrong = sum(shares[name] or 0.0 for name in _ERRORS)
    return {name: 100 * (shares[name] or 0.0) / wrong if wrong else 0.0 for name in _ERRORS}


def _commonest(confusions: Sequence[Mapping[str, Any]]) -> str:
    if not confusions:
        return ""
    truth, predicted = short([confusions[0][key] for key in ("truth", "predicted")])
    percent = confusions[0]["percent_of_errors"]
    return f"; the commonest error is {truth} taken for {predicted} ({percent:.0f} %)"


def _line(index: int) -> dict[str, Any]:
    turn = index + index // len(COLOURS)  # another mark when colours come round again
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[turn % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
        "markersize": 5,
    }


def _fill(index: int) -> dict[str, Any]:
    turn = index + index // len(FILLS)
    return {"color": FILLS[index % len(FILLS)], "hatch": HATCHES[turn % len(HATCHES)]}


def _stacked(axes: Axes, labels: Sequence[str], parts: Mapping[str, pd.Series]) -> None:
    """Draw a bar per label, one part after another; parts below zero have no width."""
    left = pd.Series(0.0, index=next(iter(parts.values())).index)
    for index, (name, values) in enumerate(parts.items()):
        width = values.clip(lower=0)
        axes.barh(
            range(len(labels)), width, left=left, label=name, edgecolor="black", height=0.72,
            **_fill(index),
        )  # fmt: skip
        for place, (start, value) in enumerate(zip(left, width, strict=True)):
            if value >= 5:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axes.text(start + value / 2, place, f"{value:.0f}", ha="center", va="center",
                          fontsize=7.5, bbox=box)  # fmt: skip
        left = left + width
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _grouped(
    axes: Axes, rows: pd.DataFrame, columns: Sequence[str], titles: Mapping[str, str]
) -> None:
    """Draw for each column a bar of each row."""
    width = 0.8 / len(rows)
    for index, (name, row) in enumerate(rows.iterrows()):
        places = [p + width * (index - (len(rows) - 1) / 2) for p in range(len(columns))]
        axes.bar(
            places, row[list(columns)].astype(float), width, label=name, edgecolor="black",
            **_fill(index),
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [titles[name] for name in columns])
    axes.grid(axis="x", visible=False)


def _finish(figure: Figure, sentence: str, path: Path, *, legend_of: Axes | None = None) -> None:
    """Write the sentence above the plot, the legend below it, and the file."""
    letters = int(figure.get_figwidth() / _INCHES_PER_LETTER)
    text = textwrap.fill(sentence.replace(" %", "\u00a0%"), letters)
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    handles, names = (legend_of or figure.axes[0]).get_legend_handles_labels()
    columns = max(1, letters // (max(map(len, names)) + _LEGEND_MARK))
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    save_figure(figure, path)
