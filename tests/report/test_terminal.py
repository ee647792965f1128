"""The table of results in a terminal of 80 columns, from the files that a run leaves."""

import io

import pandas as pd
import pytest
from rich.console import Console

from maftp.errors import MaftpError
from maftp.report.differences import SEMANTIC, difference_table
from maftp.report.tables import experiment_table, write_table
from maftp.report.terminal import show_results
from tests.report.test_differences import BENCHMARKS, make_run


def printed(csv) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show_results(csv, console)
    return console.file.getvalue()


@pytest.fixture
def table(tmp_path):
    """results/table.csv of an experiment with three seeds, its differences in its folder."""
    scores = {"maftp": (40, 44, 48), "fcclip": (30, 34, 38)}
    runs = [
        make_run(tmp_path / "world" / variant / f"seed{seed}", score)
        for variant, found in scores.items()
        for seed, score in enumerate(found)
    ]
    csv = tmp_path / "table.csv"
    rows = experiment_table([run.path for run in runs], benchmarks=BENCHMARKS)
    write_table(rows, csv, tmp_path / "table.md")
    found = difference_table(runs, "fcclip", BENCHMARKS, draws=20)
    found.to_csv(tmp_path / "world/differences.csv", index=False)
    return csv


def test_scores_and_differences_fit_a_terminal(table):
    text = printed(table)
    assert max(map(len, text.splitlines())) <= 80
    assert "over 3 seeds" in text and "mIoU (a)" in text
    line = next(line for line in text.splitlines() if line.split()[:1] == ["maftp"])
    assert line.split() == ["maftp", *["44.0±4.0"] * 7]
    lines = [line.split() for line in text.splitlines()]
    assert ["maftp", *["+10.0"] * 7] in lines
    assert ["from", *["+0.9"] * 7] in lines and ["to", *["+19.1"] * 7] in lines


def test_a_table_without_differences_is_shown(table):
    (table.parent / "world/differences.csv").unlink()
    assert "Difference" not in printed(table) and "44.0" in printed(table)


def test_what_is_no_table_of_results(tmp_path):
    with pytest.raises(MaftpError, match="no such table of results"):
        printed(tmp_path / "table.csv")
    pd.DataFrame({name: [1.0] for name in SEMANTIC}).to_csv(tmp_path / "table.csv")
    with pytest.raises(MaftpError, match="column experiment is missing"):
        printed(tmp_path / "table.csv")
