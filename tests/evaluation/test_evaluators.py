"""Evaluators on small files: perfect and wrong predictions, and pictures of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

from maftp.errors import DataError
from maftp.evaluation.evaluators import OverlayDrawer, PanopticEvaluator, SemanticEvaluator
from maftp.evaluation.instance import InstanceTruth
from maftp.evaluation.panoptic import PanopticTruth

NAMES = ["sky", "grass,lawn", "cat"]
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
TRUTH = np.array([[0, 0, 1, 1], [2, 2, 1, 255]], dtype=np.uint8)
CATEGORY_IDS = [10, 20, 30]  # the files' ids of classes 0, 1, 2


def scores_of(labels: np.ndarray) -> torch.Tensor:
    """Return (K, H, W) scores whose best class is `labels`."""
    return torch.nn.functional.one_hot(torch.tensor(labels).long(), 3).permute(2, 0, 1) * 0.3


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    Image.fromarray(TRUTH).save(tmp_path / "a.png")
    Image.new("RGB", (4, 2), (90, 90, 90)).save(tmp_path / "photo.jpg")
    return {
        "file_name": str(tmp_path / "photo.jpg"),
        "sem_seg_file_name": str(tmp_path / "a.png"),
        "image_id": "a",
    }


@pytest.fixture
def truth(tmp_path: Path) -> PanopticTruth:
    """One image: sky (id 1), cat (id 2) and void."""
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 0]], dtype=np.uint8)
    folder = tmp_path / "panoptic"
    folder.mkdir()
    Image.fromarray(np.stack([ids, ids * 0, ids * 0], axis=-1)).save(folder / "a.png")
    segments = [
        {"id": 1, "category_id": 10, "area": 4, "iscrowd": 0},
        {"id": 2, "category_id": 30, "area": 3, "iscrowd": 0},
    ]
    categories = [
        {"id": key, "name": name, "isthing": int(key == 30)}
        for key, name in zip(CATEGORY_IDS, NAMES, strict=True)
    ]
    record = {"image_id": "a", "file_name": "a.png", "segments_info": segments}
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({"categories": categories, "annotations": [record]}))
    return PanopticTruth.read(path, folder)


def panoptic_output(ids: list[list[int]], classes: dict[int, int]) -> dict[str, Any]:
    segments = [{"id": key, "isthing": True, "category_id": c} for key, c in classes.items()]
    return {"panoptic_seg": (torch.tensor(ids, dtype=torch.int32), segments)}


def test_semantic(item: dict[str, Any]):
    evaluator = SemanticEvaluator(names=NAMES, ignore_label=255, seen=[True, True, False])
    prediction = np.array([[0, 0, 1, 1], [0, 2, 1, 2]])
    evaluator.process([item], [{"sem_seg": scores_of(prediction)}])
    result = evaluator.evaluate()
    assert result is not None
    # class 0: 2 / 3, class 1: 3 / 3, class 2: 1 / 2 (its pixel on the ignored one does not count)
    found = [record["IoU"] for record in result["per_class"]]
    assert found == pytest.approx([100 * 2 / 3, 100, 50])
    assert result["scores"]["unseen"]["mIoU_b"] == pytest.approx(50)
    assert result["per_class"][2] == pytest.approx(
        {"id": 2, "name": "cat", "seen": False, "IoU": 50.0, "Acc": 50.0}
    )
    evaluator.reset()
    evaluator.process([item], [{"sem_seg": scores_of(np.where(TRUTH == 255, 0, TRUTH))}])
    result = evaluator.evaluate()
    assert result is not None and result["scores"]["mIoU_a"] == 100


def test_semantic_size_mismatch_names_the_file(item: dict[str, Any]):
    evaluator = SemanticEvaluator(names=NAMES, ignore_label=255, seen=[True] * 3)
    with pytest.raises(DataError, match=r"a\.png: the label map is 2 x 4 .* 4 x 2"):
        evaluator.process([item], [{"sem_seg": torch.zeros(3, 4, 2)}])


def test_panoptic_translates_classes_to_the_categories_of_the_files(
    item: dict[str, Any], truth: PanopticTruth
):
    evaluator = PanopticEvaluator(truth=truth, seen=[True, False, False], image_ids=["a"])
    output = panoptic_output([[7, 7, 8, 8], [7, 7, 8, 8]], {7: 0, 8: 2})
    evaluator.process([item], [output])
    result = evaluator.evaluate()
    assert result is not None
    assert result["scores"]["PQ"] == result["scores"]["PQ_th"] == 100
    assert [record["seen"] for record in result["per_class"]] == [True, False, False]
    evaluator.reset()
    with pytest.raises(DataError, match="1 missing"):
        evaluator.evaluate()


def test_an_image_without_ground_truth_is_named(item: dict[str, Any], truth: PanopticTruth):
    evaluator = PanopticEvaluator(truth=truth, seen=[True] * 3, image_ids=["a"])
    with pytest.raises(DataError, match="image b: not in the panoptic JSON"):
        evaluator.process([item | {"image_id": "b"}], [panoptic_output([[0]], {})])


@pytest.fixture
def instances(tmp_path: Path) -> InstanceTruth:
    """One image: a sky all over, and a cat on its right."""
    masks = [(0, [0, 8], 8), (2, [4, 4], 4)]  # in run lengths down the columns
    annotations = [
        {"id": number, "image_id": "a", "category_id": label, "area": area, "iscrowd": 0}
        | {"bbox": [0, 0, 4, 2], "segmentation": {"size": [2, 4], "counts": counts}}
        for number, (label, counts, area) in enumerate(masks, start=1)
    ]
    images = [{"id": "a", "file_name": "photo.jpg", "height": 2, "width": 4}]
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return InstanceTruth.read(path)


def instance_output(found: list[tuple[int, float, list[list[int]]]]) -> dict[str, Any]:
    instances = Instances((2, 4))
    instances.pred_classes = torch.tensor([label for label, _, _ in found])
    instances.scores = torch.tensor([score for _, score, _ in found])
    instances.pred_masks = torch.tensor([mask for _, _, mask in found], dtype=torch.float32)
    return {"instances": instances}


@pytest.mark.parametrize("kind", ["semantic", "panoptic", "instance"])
def test_pictures_show_truth_and_prediction(
    item: dict[str, Any],
    truth: PanopticTruth,
    instances: InstanceTruth,
    tmp_path: Path,
    kind: str,
):
    drawer = OverlayDrawer(
        folder=tmp_path / "overlays",
        count=1,
        names=NAMES,
        colours=COLOURS,
        ignore_label=255,
        truth={"semantic": None, "panoptic": truth, "instance": instances}[kind],
    )
    output = panoptic_output([[7] * 4] * 2, {7: 1}) | {"sem_seg": scores_of(np.ones((2, 4), int))}
    # the best one lies on top, and the worst is not painted
    whole, nothing = [[1] * 4] * 2, [[0] * 4] * 2
    output |= instance_output(
        [(1, 0.9, whole), (2, 0.6, whole), (0, 0.4, whole), (0, 0.8, nothing)]
    )
    for _ in range(2):
        drawer.process([item], [output])
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["photo.png"]
    picture = np.asarray(Image.open(tmp_path / "overlays" / "photo.png"))
    # columns of 512 px after a title of 38 px; (90, 90, 90) under 60 % of green and of red
    top, column = 38, 512 + 12
    np.testing.assert_array_equal(picture[top + 9, 12 + 9], [90, 90, 90])
    np.testing.assert_array_equal(picture[top + 9, 12 + column + 9], [186, 36, 36])
    np.testing.assert_array_equal(picture[top + 9, 12 + 2 * column + 9], [36, 186, 36])
