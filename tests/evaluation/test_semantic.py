"""Confusion matrix and semantic scores: hand-derived values, torchmetrics, and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from maftp.errors import DataError
from maftp.evaluation.semantic import ConfusionMatrix

# Four classes, value 4 to ignore. By hand, over the nine pixels that are not ignored:
#   TP = 4 2 0 0 (class 0: pixels 0..3; class 1: pixels 6, 7)     G = 6 3 0 0
#   P  = 5 3 1 0 (class 0: 0..3, 8; class 1: 4, 6, 7; class 2: 5; class 3: on ignored pixels only)
#   U  = G + P - TP = 7 4 1 0
TRUTH = np.array([[0, 0, 0, 0, 0, 0, 1, 1, 1, 4, 4, 4]])
PREDICTION = np.array([[0, 0, 0, 0, 1, 2, 1, 1, 0, 3, 3, 0]])


def matrix_of(
    prediction: np.ndarray, truth: np.ndarray, n: int = 4, ignore: int = 4
) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes=n, ignore_label=ignore)
    matrix.update(prediction, truth, source="label.png")
    return matrix


def test_scores_by_hand():
    scores = matrix_of(PREDICTION, TRUTH).scores().as_dict()
    # IoU = 4/7, 2/4; present in ground truth: {0, 1}; in the union: {0, 1, 2}
    assert scores["classes_in_ground_truth"] == 2
    assert scores["classes_in_union"] == 3
    assert scores["classes"] == 4
    assert scores["images"] == 1
    assert scores["mIoU_a"] == pytest.approx(100 * (4 / 7 + 1 / 2) / 3)  # 35.7143
    assert scores["mIoU_b"] == pytest.approx(100 * (4 / 7 + 1 / 2) / 2)  # 53.5714
    assert scores["fwIoU"] == pytest.approx(100 * (6 / 9 * 4 / 7 + 3 / 9 * 1 / 2))  # 54.7619
    assert scores["mACC"] == pytest.approx(100 * (4 / 6 + 2 / 3) / 2)  # 66.6667
    assert scores["pACC"] == pytest.approx(100 * 6 / 9)  # 66.6667


def test_ignored_pixels_are_in_their_own_column_only():
    counts = matrix_of(PREDICTION, TRUTH).counts
    np.testing.assert_array_equal(counts[:, 4], [1, 0, 0, 2])
    np.testing.assert_array_equal(counts[:, :4].sum(axis=1), [5, 3, 1, 0])
    assert counts.sum() == TRUTH.size


def test_per_class_values_are_undefined_for_absent_classes():
    scores = matrix_of(PREDICTION, TRUTH).scores()
    np.testing.assert_allclose(scores.iou, [4 / 7, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(scores.accuracy, [4 / 6, 2 / 3, np.nan, np.nan])


def test_seen_and_unseen_split():
    # seen = {0, 2}: only class 0 is in the ground truth, both are in the union -> (a) halves (b);
    # unseen = {1, 3}: class 3 occurs nowhere, so both protocols divide by one
    scores = matrix_of(PREDICTION, TRUTH).scores([True, False, True, False]).as_dict()
    assert scores["seen"]["mIoU_a"] == pytest.approx(100 * 4 / 7 / 2)
    assert scores["seen"]["mIoU_b"] == pytest.approx(100 * 4 / 7)
    assert scores["unseen"]["mIoU_a"] == scores["unseen"]["mIoU_b"] == pytest.approx(50)
    assert scores["seen"]["classes"] == scores["unseen"]["classes"] == 2


def test_nothing_to_score_gives_null_not_zero():
    scores = matrix_of(np.zeros((2, 2), int), np.full((2, 2), 4)).scores([True] * 4).as_dict()
    for key in ("mIoU_a", "mIoU_b", "fwIoU", "mACC", "pACC"):
        assert scores[key] is None
    assert scores["unseen"]["mIoU_b"] is None


def test_sixteen_bit_ignore_value_and_class_255():
    # 255 is a class of the large vocabularies, whose ignore value is 65535
    truth = np.array([[255, 65535]], dtype=np.uint16)
    scores = matrix_of(np.array([[255, 0]]), truth, n=459, ignore=65535).scores()
    assert scores.pixel_accuracy == 1.0
    assert scores.mean_iou.num_in_union == 1


def test_label_out_of_range_names_file_and_value():
    with pytest.raises(DataError, match=r"label\.png: label 7 .*0\.\.3.*ignore value 4"):
        matrix_of(np.zeros((1, 2), int), np.array([[0, 7]]))


def test_shape_mismatch_names_both():
    with pytest.raises(DataError, match=r"label\.png: .* 3 x 2 but the prediction is 2 x 3"):
        matrix_of(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_wrong_calls():
    with pytest.raises(ValueError, match="ignore_label 3"):
        ConfusionMatrix(num_classes=4, ignore_label=3)
    with pytest.raises(ValueError, match="outside 0..3"):
        matrix_of(np.array([[4]]), np.array([[0]]))
    with pytest.raises(ValueError, match="cannot be added"):
        matrix_of(PREDICTION, TRUTH) + matrix_of(PREDICTION, TRUTH, n=5, ignore=255)
    with pytest.raises(ValueError, match="seen has 1 entries"):
        matrix_of(PREDICTION, TRUTH).scores([True])


def test_agrees_with_torchmetrics():
    rng = np.random.default_rng(0)
    prediction = rng.integers(0, 6, (40, 50))
    truth = rng.integers(0, 5, (40, 50))
    truth[rng.random(truth.shape) < 0.1] = 255
    matrix = matrix_of(prediction, truth, n=6, ignore=255)
    arguments = (torch.tensor(prediction), torch.tensor(truth))
    counts = multiclass_confusion_matrix(*arguments, num_classes=6, ignore_index=255)
    np.testing.assert_array_equal(
        matrix.counts[:, :-1], counts.T
    )  # torchmetrics: [truth, prediction]
    iou = multiclass_jaccard_index(*arguments, num_classes=6, ignore_index=255, average="none")
    scores = matrix.scores()
    np.testing.assert_allclose(scores.iou[:5], iou[:5], rtol=1e-6)
    # class 5 is predicted but never true: torchmetrics' macro average counts it as 0, as (a) does
    macro = multiclass_jaccard_index(*arguments, num_classes=6, ignore_index=255, average="macro")
    assert scores.mean_iou.union_denominator == pytest.approx(macro.item(), rel=1e-6)


maps = st.integers(1, 4).flatmap(
    lambda side: st.tuples(
        st.lists(st.integers(0, 2), min_size=side, max_size=side),
        st.lists(st.sampled_from([0, 1, 2, 255]), min_size=side, max_size=side),
    )
)


@given(first=st.lists(maps, max_size=3), second=st.lists(maps, max_size=3))
@settings(max_examples=50, deadline=None)
def test_sum_of_parts_is_the_whole_and_a_is_at_most_b(first: list, second: list):
    parts = [ConfusionMatrix(num_classes=3, ignore_label=255) for _ in range(3)]
    for part, images in zip(parts, (first, second, first + second), strict=True):
        for prediction, truth in images:
            part.update(np.array([prediction]), np.array([truth]), source="x")
    total = parts[0] + parts[1]
    np.testing.assert_array_equal(total.counts, parts[2].counts)
    assert total.num_images == parts[2].num_images
    scores = total.scores().mean_iou
    assert np.isnan(scores.union_denominator) or (
        scores.union_denominator <= scores.ground_truth_classes
    )
    if scores.num_in_union and not np.isnan(scores.ground_truth_classes):
        ratio = scores.num_in_ground_truth / scores.num_in_union
        assert scores.union_denominator == pytest.approx(scores.ground_truth_classes * ratio)
