"""The table of ablations: scores of every cell, what it differs in, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maftp.files import atomic_path
from maftp.grid import Grid, Row
from maftp.report.bootstrap import difference
from maftp.report.csv_file import write_csv
from maftp.report.differences import CountsReader, interval_text
from maftp.report.tables import RECIPE, experiment_table
from maftp.results import COSTS, SCORES, Run, find_runs, read_table

MIOU, PQ = "mIoU", "PQ"
_INTRODUCTION = """\
# Ablations

Every line differs from the cell it starts from in one parameter; another method also changes what
its recipe needs. mIoU is protocol (b), the mean over the classes of the ground truth, averaged over
the benchmarks; standard deviations are over seeds. The difference from the full model has a 95 %
interval: how far the choice of test images (a paired bootstrap) and, with several seeds, of seeds
could explain it. It is bold where it excludes zero. Lines with the same run are the same run.
"""
_NOT_COMPARABLE = """\
**Not comparable with the numbers of the paper**: the full model is none of its recipes
({deviations}).
"""


def ablation_table(
    grid: Grid,
    results: Path,
    *,
    experiment: str,
    benchmarks: Sequence[str],
    seeds: Sequence[int],
    draws: int = 1000,
) -> pd.DataFrame:
    """Gather the scores of a grid, one line per row.

    Args:
        grid: rows and runs.
        results: the experiment's folder.
        experiment: its name.
        benchmarks: scored by every run.
        seeds: of every run.
        draws: of the bootstrap.

    Raises:
        MaftpError: a result is missing or damaged.
    """
    reader = _Reader(results, grid, list(benchmarks), list(seeds), draws)
    full = grid.rows[0].run
    first = find_runs(results, [full], seeds[:1])[0].path
    recipe = experiment_table([first], benchmarks=benchmarks).iloc[0]
    common = {"experiment": experiment, **{key: recipe[key] for key in RECIPE}}
    records = [{**common, **_what(row), **reader.scores(row.run, full)} for row in grid.rows]
    return pd.DataFrame(records)


def write_ablations(tables: Sequence[pd.DataFrame], csv: Path, markdown: Path) -> None:
    """Write the lines of one or more experiments as CSV and for people."""
    whole = pd.concat(tables, ignore_index=True)
    parts = [_INTRODUCTION]
    for experiment, lines in whole.groupby("experiment", sort=False):
        parts.append(f"## {experiment}\n")
        first = lines.iloc[0]
        if not first["recipe"] or pd.isna(first["recipe"]):
            parts.append(_NOT_COMPARABLE.format(deviations=first["deviations"]))
        for study, rows in lines.groupby("study", sort=False):
            parts.append(f"### {study.replace('_', ' ')}\n\n{_text(rows)}\n")
    write_csv(whole, csv, decimals=3)
    with atomic_path(markdown) as temporary:
        temporary.write_text("\n".join(parts))


def read_ablations(csv: Path) -> pd.DataFrame:
    """Read what `write_ablations` wrote.

    Raises:
        MaftpError: the file is missing or of another kind.
    """
    return read_table(
        csv, what="table of ablations", remedy="make it",
        columns=("experiment", "study", "title", "run"), dtype={"value": str},
    )  # fmt: skip


def _what(row: Row) -> dict[str, Any]:
    value = None if row.key is None else json.dumps(row.value)
    return {
        "study": row.study,
        "title": row.title,
        "run": row.run,
        "start": row.start,
        "key": row.key,
        "value": value,
    }


class _Reader:
    """Reads each run once."""

    def __init__(
        self, results: Path, grid: Grid, benchmarks: list[str], seeds: list[int], draws: int
    ) -> None:
        self._results = results
        self._grid = grid
        self._benchmarks = benchmarks
        self._seeds = seeds
        self._draws = draws
        self._done: dict[str, dict[str, Any]] = {}
        self._reader = CountsReader()

    def scores(self, name: str, full: str) -> dict[str, Any]:
        if name not in self._done:
            runs, others = self._runs(name), [] if name == full else self._runs(full)
            self._done[name] = self._means(runs) | self._differences(runs, others)
            self._done[name] |= self._costs(name)
        return self._done[name]

    def _runs(self, name: str) -> list[Run]:
        return find_runs(self._results, [name], self._seeds)

    def _means(self, runs: Sequence[Run]) -> dict[str, Any]:
        table = pd.DataFrame([self._row(run) for run in runs])
        if miou := [name for name in self._benchmarks if name in table]:
            table[MIOU] = table[miou].mean(axis=1)
        record: dict[str, Any] = {"seeds": len(table)}
        for name in table:
            record[name] = table[name].mean()
            record[f"{name} std"] = table[name].std(ddof=1) if len(table) > 1 else None
        return record

    def _row(self, run: Run) -> dict[str, float | None]:
        row = {}
        for benchmark in self._benchmarks:
            result = run.evaluation(benchmark)
            score, title = next(iter(SCORES[result.metric].items()))
            row[title.format(benchmark)] = result.scores[score]
        return row

    def _differences(self, runs: Sequence[Run], others: Sequence[Run]) -> dict[str, Any]:
        record: dict[str, Any] = {}
        sides = self._reader.sides(runs, others, self._benchmarks) if others else {}
        for name, panoptic in ((MIOU, False), (PQ, True)):
            chosen = [side for side in sides.values() if side[0][0].is_panoptic == panoptic]
            if chosen:
                found = difference(chosen, draws=self._draws)
                record[f"{name} difference"] = found.mean
                record[f"{name} low"] = found.low
                record[f"{name} high"] = found.high
        return record

    def _costs(self, name: str) -> dict[str, Any]:
        """Return the cost of the training whose weights the run uses."""
        source = self._grid.runs[name]["weights"]
        trained = name if source is None else Path(source).parts[-3]
        found = [run.manifest for run in self._runs(trained)]
        means = {
            key: None if any(one.get(key) is None for one in found)
            else sum(one[key] for one in found) / len(found)
            for key in COSTS
        }  # fmt: skip
        return means | {"trained as": trained}


def _text(rows: pd.DataFrame) -> str:
    scores = [c for c in rows.columns if f"{c} std" in rows.columns and rows[c].notna().any()]
    lines = []
    for _, row in rows.iterrows():
        line = {"cell": row["title"], "parameter": "" if pd.isna(row["key"]) else row["key"]}
        for name in scores:
            spread = row[f"{name} std"]
            line[name] = f"{row[name]:.2f}" + ("" if pd.isna(spread) else f" ± {spread:.2f}")
        for name in (MIOU, PQ):
            if f"{name} difference" in rows.columns:
                line[f"{name} - full [95 %]"] = _interval(row, name)
        line["trainable (M)"] = f"{row['trainable_parameters'] / 1e6:.2f}"
        line["training (min)"] = f"{row['training_seconds'] / 60:.2f}"
        line["memory (GB)"] = f"{row['peak_host_memory_mb'] / 1000:.2f}"
        line["run"] = row["run"]
        lines.append(line)
    table = pd.DataFrame(lines)
    align = ["left", "left"] + ["right"] * (len(table.columns) - 3) + ["left"]
    return table.to_markdown(index=False, disable_numparse=True, colalign=align)


def _interval(row: pd.Series, name: str) -> str:
    mean = row[f"{name} difference"]
    return "" if pd.isna(mean) else interval_text(mean, row[f"{name} low"], row[f"{name} high"])
