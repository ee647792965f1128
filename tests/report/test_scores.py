"""Scores of a run as DVC reads them."""

from __future__ import annotations

import csv
import json

import pytest

from maftp.report.scores import write_history, write_metrics, write_scores
from maftp.results import Run

BENCHMARKS = ["A-150", "ADE-panoptic"]
SEMANTIC = {
    "metric": "semantic",
    "scores": {"mIoU_a": 20.0, "mIoU_b": 30.0, "seen": {"mIoU_b": 40.0},
               "unseen": {"mIoU_b": None}},
    "per_class": [
        {"name": "sky", "seen": True, "IoU": 40.0},
        {"name": "dog,hound", "seen": False, "IoU": 20.0},
        {"name": "absent", "seen": True, "IoU": None},
    ],
}  # fmt: skip
PANOPTIC = {
    "metric": "panoptic",
    "scores": {"PQ": 1.0, "SQ": 2.0, "RQ": 3.0, "PQ_th": 4.0},
    "per_class": [{"name": "sky", "seen": True, "PQ": 5.0}],
}


@pytest.fixture
def runs(tmp_path):
    """One that was trained, and one that was scored with the weights of another."""
    found = []
    for variant in ("maftp", "given"):
        folder = tmp_path / "made_up" / variant / "seed0"
        (folder / "evaluation").mkdir(parents=True)
        (folder / "evaluation/A-150.json").write_text(json.dumps(SEMANTIC))
        (folder / "evaluation/ADE-panoptic.json").write_text(json.dumps(PANOPTIC))
        found.append(Run(folder))
    (found[0].path / "manifest.json").write_text("{}")
    (found[0].path / "history.csv").write_text("step,loss\n1,0.5\n2,0.1\n")
    return found


def rows(path):
    return list(csv.reader(path.open()))


def test_metrics(runs, tmp_path):
    write_metrics(runs, BENCHMARKS, tmp_path / "metrics.json")
    scores = {"A-150": 30.0, "ADE-panoptic": {"PQ": 1.0, "SQ": 2.0, "RQ": 3.0}}
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "maftp": {"seed0": scores}, "given": {"seed0": scores}
    }  # fmt: skip


def test_scores_of_classes(runs, tmp_path):
    write_scores(runs[:1], BENCHMARKS, tmp_path / "scores.csv")
    assert rows(tmp_path / "scores.csv") == [
        ["run", "benchmark", "class", "training", "score"],
        ["maftp-seed0", "A-150", "sky", "seen", "40.0"],
        ["maftp-seed0", "A-150", "dog,hound", "unseen", "20.0"],
        ["maftp-seed0", "ADE-panoptic", "sky", "seen", "5.0"],
    ]


def test_history(runs, tmp_path):
    write_history(runs, tmp_path / "history.csv")
    assert rows(tmp_path / "history.csv") == [
        ["run", "step", "loss"], ["maftp-seed0", "1.0", "0.5"], ["maftp-seed0", "2.0", "0.1"]
    ]  # fmt: skip
    write_history(runs[1:], tmp_path / "history.csv")
    assert rows(tmp_path / "history.csv") == [["run"]]
