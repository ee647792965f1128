"""Counts per image add up to the scores of the benchmark."""

import json

import numpy as np
import pandas as pd
import pytest

from maftp.evaluation.panoptic import CategoryCounts
from maftp.evaluation.runner import evaluate
from maftp.evaluation.statistics import confusion_rows, panoptic_rows, semantic_rows
from maftp.report.bootstrap import counts_of, score


def test_rows_of_one_image():
    counts = np.array([[5, 1, 2], [0, 3, 4], [0, 0, 0]])[:, [0, 1, 1, 2]] * [1, 1, 0, 1]
    # predicted 0: 5 of class 0, 1 of class 1 (2 ignored); predicted 1: 3 of class 1 (4 ignored)
    assert semantic_rows("a", counts) == [("a", 0, 5, 5, 6), ("a", 1, 3, 4, 3)]
    assert confusion_rows(counts) == [(0, 0, 5), (1, 0, 1), (1, 1, 3)]
    found = {7: CategoryCounts(0.75, 1, 0, 2), 8: CategoryCounts()}
    assert panoptic_rows("a", found) == [("a", 7, 0.75, 1, 0, 2)]


@pytest.mark.parametrize(("benchmark", "name"), [("A-150", "mIoU_b"), ("ADE-panoptic", "PQ")])
def test_scores_follow_from_the_statistics(
    params, weights, catalog, root, tmp_path, benchmark, name
):
    evaluate(
        params.for_variant("maftp"),
        variant="maftp",
        seed=0,
        benchmark=benchmark,
        weights=weights("maftp"),
        catalog=catalog,
        root=root,
        out=tmp_path / "scores.json",
        statistics_dir=tmp_path / "statistics",
        device="cpu",
    )
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    counts = counts_of(tmp_path / "statistics", "semantic" if name == "mIoU_b" else "panoptic")
    assert counts.images == ("one", "two")
    # iou is written with six digits
    assert score(counts, np.ones((1, 2)))[0] == pytest.approx(scores[name], abs=1e-3)
    if name == "mIoU_b":
        pairs = pd.read_csv(tmp_path / "statistics" / "confusion.csv")
        right = pairs[pairs.truth == pairs.predicted].pixels.sum()
        assert 100 * right / pairs.pixels.sum() == pytest.approx(scores["pACC"])
