"""The table of results in a terminal: scores in both definitions of mIoU, and differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from maftp.report.differences import MEAN, SEMANTIC, read_differences
from maftp.report.tables import KEYS, further_scores, mean_text
from maftp.results import DIFFERENCES, UNION, read_table

_SHORT = {MEAN: "mean"}
_MOST_COLUMNS = 7
"""Scores with their spread in 80 columns: the paper's five, their mean and PQ."""


def show_results(csv: Path, console: Console) -> None:
    """Print a table of results, with the differences that lie in its experiments' folders.

    Args:
        csv: results/table.csv, or the table of one experiment.
        console: where to print.

    Raises:
        MaftpError: a table is missing or damaged.
    """
    table = read_table(csv, what="table of results", remedy="`make table`", columns=KEYS)
    for experiment, rows in table.groupby("experiment", sort=False):
        seeds = rows["seed"].nunique()
        spread = "mean ± standard deviation over" if seeds > 1 else "from"
        console.print(
            f"[bold]{experiment}[/], in percent, {spread} {seeds} seed{'s'[: seeds > 1]}\n"
        )
        for title, part in _titled(_scores(rows)):
            console.print(f"[italic]{title}[/]", _printed(part))
        for folder in (csv.parent, csv.parent / str(experiment)):
            if (folder / DIFFERENCES).exists():
                found = read_differences(folder / DIFFERENCES)
                for part in _differences(found[found["experiment"] == experiment]):
                    console.print(part)
                break


def _scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the runs of an experiment were scored on, in reading order, with the means."""
    plain, union = further_scores(rows)
    first = [name for name in plain if name.split()[-1] not in ("SQ", "RQ")]
    five, five_union = list(SEMANTIC), [name + UNION for name in SEMANTIC]
    means = {
        MEAN: rows[five].mean(axis=1, skipna=False),
        MEAN + UNION: rows[five_union].mean(axis=1, skipna=False),
    }
    columns = [*five, MEAN, "PQ", *first, *five_union, MEAN + UNION, *union]
    return rows.assign(**means).set_index("variant")[columns].dropna(axis=1, how="all")


def _titled(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split scores into tables that fit a terminal, the definitions of mIoU apart."""
    union = [name for name in scores if name.endswith(UNION)]
    plain = [name for name in scores if name not in union]
    last_words = {name.split()[-1] for name in plain}
    titles = ["mIoU (b), over the classes of the ground truth"] if union else []
    titles += [metric for metric in ("PQ", "AP") if metric in last_words]
    for columns in _few(plain):
        yield "; ".join(titles), scores[columns]
    for columns in _few(union):
        yield "mIoU (a), over the classes of ground truth or prediction", scores[columns]


def _few(columns: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(columns), _MOST_COLUMNS):
        yield columns[start : start + _MOST_COLUMNS]


def _printed(scores: pd.DataFrame) -> Table:
    table = _new_table([name.removesuffix(UNION) for name in scores])
    for variant, group in scores.groupby("variant", sort=False):
        cells = (mean_text(group[name], decimals=1, sign="±") for name in scores)
        table.add_row(str(variant), *cells)
    return table


def _differences(found: pd.DataFrame) -> Iterator[Group]:
    if found.empty:
        return
    first = found.iloc[0]
    title = (
        f"Difference from {first['baseline']}, 95 % interval over {first['covers']};\n"
        "bold where it excludes zero"
    )
    for columns in _few(list(dict.fromkeys(found["score"]))):
        table = _new_table(columns)
        for variant, rows in found.groupby("variant", sort=False):
            cells = {
                row.score: Text(
                    f"{row.difference:+.1f}\n{row.low:+.1f}\n{row.high:+.1f}",
                    style="bold" if row.low > 0 or row.high < 0 else "dim",
                )
                for row in rows.itertuples()
            }
            table.add_row(f"{variant}\n  from\n  to", *(cells.get(name, "") for name in columns))
        yield Group(Text(title, style="italic"), table)


def _new_table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("variant", overflow="fold")
    for name in columns:
        # no_wrap: a name is folded where there is no room, a number is not cut
        table.add_column(_SHORT.get(name, name), justify="right", no_wrap=True)
    return table
