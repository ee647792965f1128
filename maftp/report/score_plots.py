"""Plots of an experiment's scores: per benchmark, in both protocols of mIoU, and against cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from maftp.report.style import COLOURS, MARKERS, new_figure, save_figure
from maftp.results import MAIN_SCORE, Run, Score, score_rows

_TITLES = {"mIoU_b": "mIoU", "PQ": "PQ", "AP": "AP"}


def plot_scores(runs: Sequence[Run], benchmarks: Sequence[str], path: Path) -> pd.DataFrame:
    """Plot mIoU (protocol b), PQ or AP of every variant per benchmark; seeds are averaged.

    Returns:
        The numbers of the plot.
    """
    table = _score_table(runs, benchmarks)
    table = table[table.score.isin(MAIN_SCORE.values())]
    numbers = (
        table.groupby(["benchmark", "score", "variant"], sort=False)
        .percent.agg(mean="mean", std="std", seeds="count")
        .reset_index()
    )
    shown = list(dict.fromkeys(numbers.benchmark))
    variants = list(dict.fromkeys(numbers.variant))
    step = min(0.16, 0.8 / len(variants))  # those of a benchmark keep clear of the next one's
    figure = new_figure(width=max(1.4, 0.25 * len(variants)) * len(shown) + 2.5, height=4.2)
    axes = figure.axes[0]
    for index, variant in enumerate(variants):
        rows = numbers[numbers.variant == variant].set_index("benchmark").reindex(shown)
        offset = step * (index - (len(variants) - 1) / 2)
        axes.errorbar(
            [place + offset for place in range(len(shown))],
            rows["mean"],
            yerr=rows["std"].fillna(0),
            fmt=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markersize=7,
            capsize=3,
            label=variant,
        )
    units = numbers.drop_duplicates("benchmark").set_index("benchmark").score
    axes.set_xticks(range(len(shown)), [f"{name}\n{_TITLES[units[name]]}" for name in shown])
    axes.set(ylabel="score, percent")
    axes.set_ylim(bottom=0)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)
    return numbers


def plot_protocols(runs: Sequence[Run], benchmarks: Sequence[str], path: Path) -> pd.DataFrame:
    """Plot mIoU in both definitions side by side for each variant and benchmark."""
    table = _score_table(runs, benchmarks)
    table = table[table.score.str.startswith("mIoU")]
    numbers = (
        table.pivot_table(
            index=["benchmark", "variant"], columns="score", values="percent", sort=False
        )
        .reset_index()
        .rename_axis(columns=None)
    )
    numbers["difference"] = numbers.mIoU_b - numbers.mIoU_a
    figure = new_figure(width=7.5, height=0.28 * len(numbers) + 1.4)
    axes = figure.axes[0]
    places = range(len(numbers))
    axes.hlines(places, numbers.mIoU_a, numbers.mIoU_b, color="0.6", linewidth=2)
    axes.plot(
        numbers.mIoU_a, places, "o", color="black", markerfacecolor="white",
        label="(a) classes in truth or prediction",
    )  # fmt: skip
    axes.plot(numbers.mIoU_b, places, "o", color="black", label="(b) classes in truth")
    axes.set_yticks(places, [f"{row.benchmark}  {row.variant}" for row in numbers.itertuples()])
    axes.set_ylim(len(numbers) - 0.5, -0.5)
    axes.set(xlabel="mIoU, percent")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    save_figure(figure, path)
    return numbers


def plot_cost(
    runs: Sequence[Run],
    benchmarks: Sequence[str],
    ablations: pd.DataFrame | None,
    path: Path,
) -> pd.DataFrame:
    """Plot the mean score against training time: trained variants, and the ablation cells if any.

    It is mIoU where a benchmark has it, else PQ, else AP.

    Returns:
        The numbers of the plot.
    """
    scores = _score_table(runs, benchmarks)
    score = next(name for name in _TITLES if name in set(scores.score))
    title = _TITLES[score]
    numbers = _variant_costs(runs, scores[scores.score == score], title)
    if ablations is not None:
        cells = ablations.drop_duplicates("run")
        cells = pd.DataFrame(
            {
                "group": "ablations",
                "name": cells.title,
                "minutes": cells.training_seconds / 60,
                "trainable_parameters": cells.trainable_parameters,
                title: _mean_score(cells, title),
            }
        ).dropna(subset=title)
        numbers = pd.concat([numbers, cells], ignore_index=True)
    groups = list(dict.fromkeys(numbers.group))
    figure = new_figure(
        width=5.2 * len(groups) + 0.4, height=4.4 + 0.05 * len(numbers), columns=len(groups)
    )
    for axes, group in zip(figure.axes, groups, strict=True):
        rows = numbers[numbers.group == group]
        numbered = len(rows) > len(MARKERS)  # marks repeat then, so each has its number
        for index, row in enumerate(rows.itertuples()):
            number = f"{index + 1}  " if numbered else ""
            axes.plot(
                row.minutes,
                getattr(row, title),
                MARKERS[index % len(MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                label=f"{number}{row.name} ({row.trainable_parameters / 1e6:.2f} M)",
            )
            axes.annotate(
                number.strip(),
                (row.minutes, getattr(row, title)),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=6.5,
            )
        shown = "mIoU (b)" if title == "mIoU" else title
        axes.set(xlabel="training, minutes", ylabel=f"mean {shown}, percent", title=group)
        axes.margins(y=0.15)
        axes.set_xlim(0.8 * rows.minutes.min() if numbered else 0, 1.1 * rows.minutes.max())
        small = {"fontsize": 6.5} if numbered else {}
        axes.legend(
            frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, **small
        )
    save_figure(figure, path)
    return numbers


def _score_table(runs: Sequence[Run], benchmarks: Sequence[str]) -> pd.DataFrame:
    rows = score_rows(runs, benchmarks)
    return pd.DataFrame(rows, columns=Score._fields).astype({"percent": float})


def _mean_score(ablations: pd.DataFrame, title: str) -> pd.Series:
    """Return the mean over the benchmarks of cells; the table of ablations has that of mIoU."""
    if title == "mIoU":
        return ablations.get(title, pd.Series(index=ablations.index, dtype=float))
    own = [name for name in ablations if name.endswith(f" {title}")]
    return ablations[own].mean(axis=1)


def _variant_costs(runs: Sequence[Run], scores: pd.DataFrame, title: str) -> pd.DataFrame:
    means = scores.groupby(["variant", "seed"]).percent.mean()
    rows = [
        {
            "group": "variants",
            "name": run.variant,
            "minutes": run.manifest["training_seconds"] / 60,
            "trainable_parameters": run.manifest["trainable_parameters"],
            title: means[run.variant, run.seed],
        }
        for run in runs
        if run.trained
    ]
    return pd.DataFrame(rows).groupby(["group", "name"], sort=False).mean().reset_index()
