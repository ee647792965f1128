"""Differences between variants and a baseline, with intervals that say what chance could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from maftp.report.bootstrap import Counts, Difference, counts_of, difference
from maftp.results import PANOPTIC, SCORES, Run, read_table

SEMANTIC = ("A-847", "A-150", "PC-459", "PC-59", "PAS-20")
MEAN = "mean of five"
COLUMNS = ("experiment", "variant", "baseline", "score", "difference", "low", "high", "covers")


class CountsReader:
    """Reads the counts of each evaluation once."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._known: dict[Path, Counts] = {}

    def read(self, run: Run, benchmark: str) -> Counts | None:
        """Return the counts of one evaluation; None of instances, which are not counted.

        Raises:
            MaftpError: they are missing or damaged.
        """
        result = run.evaluation(benchmark)
        if result.metric == "instance":
            return None
        if result.path not in self._known:
            self._known[result.path] = counts_of(result.statistics, result.metric)
        return self._known[result.path]

    def sides(
        self, runs: Sequence[Run], others: Sequence[Run], benchmarks: Sequence[str]
    ) -> dict[str, tuple[list[Counts], list[Counts]]]:
        """Return the counts of every seed of two variants, by benchmark."""
        found = {}
        for benchmark in benchmarks:
            first = [self.read(run, benchmark) for run in runs]
            second = [self.read(run, benchmark) for run in others]
            if None not in (*first, *second):
                found[benchmark] = (first, second)
        return found


def difference_table(
    runs: Sequence[Run], baseline: str | None, benchmarks: Sequence[str], *, draws: int = 1000
) -> pd.DataFrame:
    """Compare every variant of an experiment with a baseline, by benchmark and in the mean.

    Args:
        runs: of the experiment, all seeds.
        baseline: variant; where there is none the table is empty.
        benchmarks: that every run was scored on.
        draws: of the bootstrap.

    Returns:
        a row per variant and score; differences in points, what their intervals cover in words.

    Raises:
        MaftpError: a result is missing or damaged.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    others = groups.pop(baseline, []) if baseline else []
    reader, records = CountsReader(), []
    for variant, own in groups.items() if others else ():
        sides = reader.sides(own, others, benchmarks)
        for score, found in _differences(sides, draws).items():
            names = (own[0].experiment, variant, baseline, score)
            values = (found.mean, found.low, found.high, found.covers)
            records.append(dict(zip(COLUMNS, (*names, *values), strict=True)))
    return pd.DataFrame(records, columns=list(COLUMNS))


def _differences(
    sides: Mapping[str, tuple[list[Counts], list[Counts]]], draws: int
) -> dict[str, Difference]:
    found = {}
    for benchmark, counts in sides.items():
        kind = "panoptic" if counts[0][0].is_panoptic else "semantic"
        title = next(iter(SCORES[kind].values())).format(benchmark).removeprefix(f"{PANOPTIC} ")
        found[title] = difference([counts], draws=draws)
    if all(name in sides for name in SEMANTIC):
        found[MEAN] = difference([sides[name] for name in SEMANTIC], draws=draws)
    return found


def read_differences(csv: Path) -> pd.DataFrame:
    """Read a table of differences.

    Raises:
        MaftpError: the file is missing or another table.
    """
    return read_table(csv, what="table of differences", remedy="make it", columns=COLUMNS)


def interval_text(mean: float, low: float, high: float) -> str:
    """Return a difference with its interval; bold where the interval excludes zero."""
    text = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
