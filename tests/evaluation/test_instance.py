"""Mask AP on a few squares: values that can be derived by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from maftp.errors import DataError
from maftp.evaluation.instance import InstanceEvaluator, InstanceTruth


def square(left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((40, 80), np.uint8)
    mask[:side, left : left + side] = 1
    return mask


def write_truth(path: Path, masks: list[tuple[int, np.ndarray]]) -> Path:
    annotations = []
    for number, (category, mask) in enumerate(masks, start=1):
        code = coco_mask.encode(np.asfortranarray(mask))
        annotations.append(
            {
                "id": number,
                "image_id": "a",
                "category_id": category,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                "area": int(mask.sum()),
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
            }
        )
    images = [{"id": "a", "file_name": "a.jpg", "height": 40, "width": 80}]
    categories = [{"id": 7, "name": "bed"}, {"id": 8, "name": "door"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


SEEN = {7: True, 8: False}


def evaluated(path: Path, detections: list[tuple[int, float, np.ndarray]]) -> dict[str, Any]:
    evaluator = InstanceEvaluator(truth=InstanceTruth.read(path), seen=SEEN, image_ids=["a"])
    found = Instances((40, 80))
    found.pred_classes = torch.tensor([label for label, _, _ in detections], dtype=torch.long)
    found.scores = torch.tensor([score for _, score, _ in detections])
    masks = [torch.tensor(mask, dtype=torch.float32) for _, _, mask in detections]
    found.pred_masks = torch.stack(masks) if masks else torch.zeros(0, 40, 80)
    evaluator.process([{"image_id": "a"}], [{"instances": found}])
    result = evaluator.evaluate()
    assert result is not None
    return result


def scores(path: Path, detections: list[tuple[int, float, np.ndarray]]) -> dict[str, float | None]:
    return evaluated(path, detections)["scores"]


def test_perfect_masks(tmp_path: Path):
    path = write_truth(tmp_path / "a.json", [(7, square(0)), (7, square(30))])
    found = scores(path, [(7, 0.9, square(0)), (7, 0.8, square(30))])
    assert (found["AP"], found["AP50"], found["APs"]) == pytest.approx((100, 100, 100))
    assert found["APl"] is None  # 400 pixels are small, there is no large object


def test_category_without_ground_truth_costs_nothing_and_a_missed_one_halves_the_mean(tmp_path):
    path = write_truth(tmp_path / "a.json", [(7, square(0)), (8, square(30))])
    assert scores(path, [(7, 0.9, square(0))])["AP"] == pytest.approx(50)
    path = write_truth(tmp_path / "b.json", [(7, square(0))])
    assert scores(path, [(7, 0.9, square(0)), (8, 0.9, square(30))])["AP"] == pytest.approx(100)


def test_each_class_has_its_precision(tmp_path: Path):
    path = write_truth(tmp_path / "a.json", [(7, square(0)), (8, square(30))])
    # the bed is shifted by 4 (see below), the door is found
    result = evaluated(path, [(7, 0.9, square(4)), (8, 0.9, square(30))])
    assert result["per_class"] == [
        {"id": 7, "name": "bed", "seen": True, "AP": pytest.approx(40)},
        {"id": 8, "name": "door", "seen": False, "AP": pytest.approx(100)},
    ]
    assert result["scores"]["AP"] == pytest.approx(70)
    path = write_truth(tmp_path / "b.json", [(7, square(0))])
    assert [entry["AP"] for entry in evaluated(path, [])["per_class"]] == [0, None]


def test_shifted_mask(tmp_path: Path):
    # 20 wide, shifted by 4: IoU = 16 / 24 = 0.667, a match at 0.50, 0.55, 0.60, 0.65: 4 of 10
    path = write_truth(tmp_path / "a.json", [(7, square(0))])
    found = scores(path, [(7, 0.9, square(4))])
    assert (found["AP"], found["AP50"], found["AP75"]) == pytest.approx((40, 100, 0))


def test_false_positive_before_the_match(tmp_path: Path):
    # precision 1/2 at every recall
    path = write_truth(tmp_path / "a.json", [(7, square(0))])
    found = scores(path, [(7, 0.9, square(50)), (7, 0.5, square(0))])
    assert found["AP"] == pytest.approx(50)


def test_nothing_found(tmp_path: Path):
    found = scores(write_truth(tmp_path / "a.json", [(7, square(0))]), [])
    assert (found["AP"], found["APl"]) == (0, None)


def test_wrong_ground_truth_is_named(tmp_path: Path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: no such file"):
        InstanceTruth.read(path)
    path.write_text("[")
    with pytest.raises(DataError, match=r"a\.json: no COCO instance JSON"):
        InstanceTruth.read(path)


@pytest.mark.parametrize("size", [(80, 40), (40, 79), (1, 1)])
def test_masks_of_another_size_are_refused(size: tuple[int, int], tmp_path: Path):
    path = write_truth(tmp_path / "a.json", [(7, square(0))])
    evaluator = InstanceEvaluator(truth=InstanceTruth.read(path), seen=SEEN, image_ids=["a"])
    found = Instances(size)
    found.pred_classes, found.scores = torch.tensor([7]), torch.tensor([0.9])
    found.pred_masks = torch.ones(1, *size)
    with pytest.raises(DataError, match=f"image a: predicted masks have {size[1]} x {size[0]} "):
        evaluator.process([{"image_id": "a"}], [{"instances": found}])
    with pytest.raises(DataError, match="image b: not in the instance JSON"):
        evaluator.process([{"image_id": "b"}], [{"instances": found}])


@pytest.mark.parametrize("counts", ["0", "oooooooo", "S1"])
def test_a_damaged_mask_is_named(counts: str, tmp_path: Path):
    path = write_truth(tmp_path / "a.json", [(7, square(0))])
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"]["counts"] = counts
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.json: .*mask"):
        InstanceTruth.read(path)
