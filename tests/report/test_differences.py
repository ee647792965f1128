"""Differences from the baseline: from the counts of runs to the rows that people read."""

from __future__ import annotations

import json

import pytest

from maftp.errors import MaftpError
from maftp.report.differences import (
    MEAN,
    SEMANTIC,
    difference_table,
    interval_text,
    read_differences,
)
from maftp.report.tables import experiment_table, merge_tables, write_table
from maftp.results import Run


def make_run(folder, correct: int, benchmarks=SEMANTIC) -> Run:
    """Write a run with `correct` of 100 pixels of each of four images, and PQ `correct` / 100."""
    evaluation = folder / "evaluation"
    evaluation.mkdir(parents=True)
    for name in (*benchmarks, "ADE-panoptic"):
        semantic = name != "ADE-panoptic"
        scores = (
            {"mIoU_a": correct, "mIoU_b": correct}
            if semantic
            else dict.fromkeys("PQ SQ RQ".split(), correct)
        )
        result = {"metric": "semantic" if semantic else "panoptic", "scores": scores}
        (evaluation / f"{name}.json").write_text(json.dumps(result))
        statistics = evaluation / f"{name}.statistics"
        statistics.mkdir()
        if semantic:
            head, row = "correct,truth,predicted", f"{correct},100,{correct}"
        else:
            head, row = (
                "iou,true_positives,false_positives,false_negatives",
                f"{correct / 100},1,0,0",
            )
        lines = [f"image,class,{head}", *(f"i{n},0,{row}" for n in range(4))]
        (statistics / "images.csv").write_text("\n".join(lines) + "\n")
    return Run(folder)


@pytest.fixture
def runs(tmp_path):
    scores = {"maftp": (40, 44, 48), "fcclip": (30, 34, 38), "shuffled": (1, 1, 1)}
    return [
        make_run(tmp_path / "world" / variant / f"seed{seed}", score)
        for variant, found in scores.items()
        for seed, score in enumerate(found)
    ]


BENCHMARKS = [*SEMANTIC, "ADE-panoptic"]


def test_every_score_has_its_interval_over_seeds_and_images(runs):
    table = difference_table(runs, "fcclip", BENCHMARKS, draws=50)
    assert table["variant"].unique().tolist() == ["maftp", "shuffled"]
    own = table[table["variant"] == "maftp"].set_index("score")
    assert list(own.index) == [*SEMANTIC, "PQ", MEAN]
    # spreads 4 and 4, equal images: 2.776 * sqrt(2 * 16 / 3) = 9.07 around 10
    for name in own.index:
        found = own.loc[name]
        assert (found.difference, found.low, found.high) == pytest.approx(
            (10, 0.93, 19.07), abs=0.01
        )
    assert set(table["covers"]) == {"seeds and images"}


def test_one_seed_says_that_seeds_are_not_covered(runs):
    first = [run for run in runs if run.seed == 0]
    table = difference_table(first, "fcclip", BENCHMARKS, draws=50)
    assert set(table["covers"]) == {"images"}


@pytest.mark.parametrize("baseline", ["none", None])
def test_no_baseline_no_claim(runs, tmp_path, baseline):
    table = difference_table(runs, baseline, BENCHMARKS)
    assert table.empty
    rows = experiment_table([run.path for run in runs], benchmarks=BENCHMARKS)
    write_table(rows, tmp_path / "t.csv", tmp_path / "t.md", differences=table)
    assert "Difference from" not in (tmp_path / "t.md").read_text()


def test_only_what_excludes_zero_is_bold(runs, tmp_path):
    assert interval_text(1, 0.5, 1.5) == "**+1.00 [+0.50, +1.50]**"
    assert interval_text(-1, -1.5, -0.5) == "**-1.00 [-1.50, -0.50]**"
    assert interval_text(1, -0.5, 2.5) == "+1.00 [-0.50, +2.50]"
    differences = difference_table(runs, "fcclip", BENCHMARKS, draws=50)
    rows = experiment_table([run.path for run in runs], benchmarks=BENCHMARKS)
    write_table(rows, tmp_path / "t.csv", tmp_path / "t.md", differences=differences)
    text = (tmp_path / "t.md").read_text()
    assert "Difference from fcclip in points" in text and "seeds and images could" in text
    assert text.count("**+10.00 [+0.93, +19.07]**") == 7


def test_joined_tables_keep_their_differences(runs, tmp_path):
    rows = experiment_table([run.path for run in runs], benchmarks=BENCHMARKS)
    differences = difference_table(runs, "fcclip", BENCHMARKS, draws=50)
    table, beside = tmp_path / "world/table.csv", tmp_path / "world/differences.csv"
    write_table(rows, table, tmp_path / "world/table.md", differences=differences)
    differences.to_csv(beside, index=False)
    merge_tables([table], tmp_path / "all.csv", tmp_path / "all.md")
    assert "**+10.00 [+0.93, +19.07]**" in (tmp_path / "all.md").read_text()
    beside.write_text("experiment\n")
    with pytest.raises(
        MaftpError, match=r"differences\.csv: no table of differences, column variant"
    ):
        read_differences(beside)
