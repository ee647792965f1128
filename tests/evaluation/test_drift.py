import numpy as np
import pytest
from PIL import Image

from maftp.evaluation.drift import RegionNames, _regions, region_masks, summarise


def test_masks_of_a_label_map_are_resized_and_padded():
    labels = np.array([[7, 7], [255, 2]])
    classes, masks = region_masks(labels, ignore_label=255, size=(4, 4), canvas=(4, 6))
    assert classes == [2, 7]
    assert masks.shape == (1, 2, 4, 6)
    assert (masks[..., 4:] == -0.5).all()
    assert masks[0, 0, 3, 3] == 0.5 and masks[0, 1, 0, 0] == 0.5
    assert masks[0, 0, 0, 0] == -0.5
    assert region_masks(labels * 0 + 255, ignore_label=255, size=(4, 4), canvas=(4, 4))[0] == []


def test_an_image_without_ground_truth_has_no_regions(tmp_path):
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / "label.png")
    record = {"sem_seg_file_name": str(tmp_path / "label.png")}
    nothing = {"model": None, "original": None, "mapper": None}  # it is not even predicted
    assert list(_regions(record=record, ignore_label=255, **nothing)) == []


def test_accuracies_before_and_after_for_seen_and_unseen_classes():
    found = RegionNames(
        truth=np.array([0, 0, 1, 1]),
        before=np.array([0, 1, 1, 1]),
        after=np.array([0, 0, 0, 1]),
        cosine=np.array([1.0, 0.8, 0.2, 0.6]),
    )
    result = summarise(found, np.array([True, False]))
    assert result["all"]["accuracy_before"] == 75 and result["all"]["accuracy_after"] == 75
    assert result["seen"] == pytest.approx(
        {"regions": 2, "accuracy_before": 50, "accuracy_after": 100, "same_name": 50, "cosine": 0.9}
    )
    assert result["unseen"] == pytest.approx(
        {"regions": 2, "accuracy_before": 100, "accuracy_after": 50, "same_name": 50, "cosine": 0.4}
    )
    none = summarise(found, np.array([True, True]))["unseen"]
    assert none["regions"] == 0 and none["accuracy_after"] is None
