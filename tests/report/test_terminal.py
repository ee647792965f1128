"""The table of results in a terminal of 80 columns, from the files that a run leaves."""

import io
import json

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
    scores = {"maftp": (40, 44, 48), "fcclip": (30, 34, 38), "fcclip_shuffled": (10, 14, 18)}
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
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["maftp", *["+10.0"] * 7] in lines
    assert ["from", *["+0.9"] * 7] in lines and ["to", *["+19.1"] * 7] in lines


def table_of(csv, scores: dict[str, dict[str, float]]) -> None:
    """Write the table of one run that was scored on these benchmarks alone."""
    folder = csv.parent / "mine/finetuned/seed0/evaluation"
    folder.mkdir(parents=True)
    for benchmark, found in scores.items():
        metric = {"mIoU_b": "semantic", "PQ": "panoptic", "AP": "instance"}[next(iter(found))]
        content = {"metric": metric, "scores": found}
        (folder / f"{benchmark}.json").write_text(json.dumps(content))
    write_table(experiment_table([folder.parent]), csv, csv.with_suffix(".md"))


def test_other_benchmarks_than_the_paper_s_are_shown(tmp_path):
    csv = tmp_path / "table.csv"
    many = {f"set{number}": {"mIoU_b": 10.0 + number, "mIoU_a": 9.0} for number in range(8)}
    panoptic = {"town": {"PQ": 41.2, "SQ": 70.0, "RQ": 60.0}}
    table_of(csv, {"A-150": {"mIoU_b": 30.3, "mIoU_a": 29.1}, **many, **panoptic})
    text = printed(csv)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert ["variant", "A-150", *[f"set{number}" for number in range(6)]] in lines
    assert ["finetuned", "30.3", *[f"{10 + number}.0" for number in range(6)]] in lines
    assert ["variant", "set6", "set7", "town", "PQ"] in lines
    assert ["finetuned", "16.0", "17.0", "41.2"] in lines
    assert "PAS-20" not in text and "mean" not in text  # not scored, so not shown
    union = [line for line in csv.with_suffix(".md").read_text().splitlines() if "(a) |" in line]
    assert "set7 (a)" in union[-1] and "PAS-20" not in union[-1]


@pytest.mark.parametrize(("metric", "others"), [("PQ", {"SQ": 1.0, "RQ": 1.0}), ("AP", {})])
def test_a_set_of_one_s_own_without_mean_intersections(tmp_path, metric, others):
    csv = tmp_path / "table.csv"
    table_of(csv, {"town": {metric: 12.3, **others}})
    text = printed(csv)
    assert f"\n{metric}\n" in text and f"town {metric}" in text and "12.3" in text
    assert "mIoU" not in text


def test_a_table_without_differences_is_shown(table):
    (table.parent / "world/differences.csv").unlink()
    assert "Difference" not in printed(table) and "44.0" in printed(table)


def test_what_is_no_table_of_results(tmp_path):
    with pytest.raises(MaftpError, match="no such table of results"):
        printed(tmp_path / "table.csv")
    pd.DataFrame({name: [1.0] for name in SEMANTIC}).to_csv(tmp_path / "table.csv")
    with pytest.raises(MaftpError, match="column experiment is missing"):
        printed(tmp_path / "table.csv")
