"""The table of results in a terminal: scores in both definitions of mIoU, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from maftp.report.differences import MEAN, SEMANTIC, read_differences
from maftp.report.tables import KEYS, mean_text
from maftp.results import DIFFERENCES, UNION, read_table

_SHORT = {MEAN: "mean"}


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
        union = [name + UNION for name in SEMANTIC]
        for title, columns in (
            ("mIoU (b), over the classes of the ground truth; PQ", [*SEMANTIC, MEAN, "PQ"]),
            ("mIoU (a), over the classes of ground truth or prediction", [*union, MEAN]),
        ):
            console.print(_scores(rows, columns, title))
        for folder in (csv.parent, csv.parent / str(experiment)):
            if (folder / DIFFERENCES).exists():
                found = read_differences(folder / DIFFERENCES)
                console.print(_differences(found[found["experiment"] == experiment]))
                break


def _scores(rows: pd.DataFrame, columns: Sequence[str], title: str) -> Table:
    five = [name for name in columns if name not in (MEAN, "PQ")]
    table = _new_table(title, [name.removesuffix(UNION) for name in columns])
    for variant, group in rows.groupby("variant", sort=False):
        values = group.assign(**{MEAN: group[five].mean(axis=1, skipna=False)})
        table.add_row(
            str(variant), *(mean_text(values[name], decimals=1, sign="±") for name in columns)
        )
    return table


def _differences(found: pd.DataFrame) -> Table | Group:
    if found.empty:
        return Group()
    first = found.iloc[0]
    title = (
        f"Difference from {first['baseline']}, 95 % interval over {first['covers']};\n"
        "bold where it excludes zero"
    )
    columns = list(dict.fromkeys(found["score"]))
    table = _new_table(title, columns)
    for variant, rows in found.groupby("variant", sort=False):
        cells = {
            row.score: Text(
                f"{row.difference:+.1f}\n{row.low:+.1f}\n{row.high:+.1f}",
                style="bold" if row.low > 0 or row.high < 0 else "dim",
            )
            for row in rows.itertuples()
        }
        table.add_row(f"{variant}\n  from\n  to", *(cells.get(name, "") for name in columns))
    return table


def _new_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("variant", overflow="fold")
    for name in columns:
        table.add_column(_SHORT.get(name, name), justify="right")
    return table
