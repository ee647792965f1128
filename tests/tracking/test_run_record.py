"""What MLflow gets of a run: the numbers as they were measured."""

import json

import pytest

from maftp.errors import MaftpError
from maftp.tracking.run_record import read_run

RESULTS = {
    "A-150": {"metric": "semantic", "scores": {"mIoU_b": 12.345678901234, "mIoU_a": 10.0}},
    "ADE-panoptic": {"metric": "panoptic", "scores": {"PQ": 1.23456, "SQ": 60.5, "RQ": None}},
    "ADE-instance": {"metric": "instance", "scores": {"AP": 7.654321}},
}


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "made_up" / "maftp" / "seed3"
    (run / "evaluation").mkdir(parents=True)
    for benchmark, result in RESULTS.items():
        (run / "evaluation" / f"{benchmark}.json").write_text(json.dumps(result))
    manifest = {"inputs": {}, "training_seconds": 90.123456, "trainable_parameters": 5}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "history.csv").write_text("step,loss\n20,1.5\n")
    return run


def test_scores_are_not_rounded(folder):
    scores = read_run(folder).scores
    assert scores["A-150"] == 12.345678901234
    assert (scores["PQ"], scores["SQ"]) == (1.23456, 60.5) and "RQ" not in scores
    assert scores["ADE-instance AP"] == 7.654321
    assert scores["training_seconds"] == 90.123456


def test_a_folder_that_is_no_run_is_refused(folder, tmp_path):
    with pytest.raises(MaftpError, match="no run folder"):
        read_run(tmp_path)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(MaftpError, match="manifest.json: not readable as JSON"):
        read_run(folder)
