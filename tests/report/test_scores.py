"""Scores of a run as DVC reads them."""

from __future__ import annotations

import csv
import json

import pytest

from maftp.report.scores import write_metrics, write_plots
from maftp.results import Run

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
def results(tmp_path):
    run = tmp_path / "made_up" / "maftp" / "seed0"
    folder = run / "evaluation"
    folder.mkdir(parents=True)
    (folder / "A-150.json").write_text(json.dumps(SEMANTIC))
    (folder / "ADE-panoptic.json").write_text(json.dumps(PANOPTIC))
    return Run(run).evaluations


def rows(path):
    return list(csv.reader(path.open()))


def test_metrics(results, tmp_path):
    write_metrics(results, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "A-150": 30.0, "ADE-panoptic": {"PQ": 1.0, "SQ": 2.0, "RQ": 3.0}
    }  # fmt: skip


def test_plots(results, tmp_path):
    plots = tmp_path / "plots"
    (plots / "classes").mkdir(parents=True)
    (plots / "classes/old.csv").touch()
    write_plots(results, plots)
    assert rows(plots / "seen.csv") == [["part", "mIoU"], ["A-150 seen", "40.0"]]
    assert rows(plots / "classes/A-150.csv") == [
        ["class", "seen", "score"], ["sky", "seen", "40.0"], ["dog,hound", "unseen", "20.0"]
    ]  # fmt: skip
    assert rows(plots / "classes/ADE-panoptic.csv")[1:] == [["sky", "seen", "5.0"]]
    assert not (plots / "classes/old.csv").exists()
