"""Panoptic quality: published values on real images, and small maps counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maftp.errors import DataError
from maftp.evaluation.panoptic import PanopticQuality, PanopticTruth

SAMPLES = Path(__file__).parents[3] / "shared" / "samples" / "coco_panoptic"
STUFF, THING, OTHER = 0, 1, 2
CATEGORIES = {
    STUFF: {"id": STUFF, "name": "wall", "isthing": 0},
    THING: {"id": THING, "name": "cat", "isthing": 1},
    OTHER: {"id": OTHER, "name": "dog", "isthing": 1},
}


def segment(key: int, category: int, area: int = 0, iscrowd: int = 0) -> dict[str, int]:
    return {"id": key, "category_id": category, "area": area, "iscrowd": iscrowd}


def panoptic_quality(predictions, *, panoptic_json, panoptic_root, image_ids=None):
    """Score predictions, image id to ids and segments, against a panoptic JSON and its PNGs."""
    truth = PanopticTruth.read(panoptic_json, panoptic_root)
    quality = PanopticQuality(categories=truth.categories)
    wanted = list(truth.annotations if image_ids is None else image_ids)
    for image_id in wanted:
        if image_id in predictions and image_id in truth.annotations:
            ids, segments = truth.ids(image_id), truth.segments(image_id)
            quality.update(*predictions[image_id], ids, segments, image_id=image_id)
    return quality.scores(wanted)


def counted(prediction: Any, segments: Any, truth: Any, truth_segments: Any) -> dict[int, Any]:
    quality = PanopticQuality(categories=CATEGORIES)
    quality.update(np.array(prediction), segments, np.array(truth), truth_segments, image_id="x")
    return {
        key: (counts.true_positives, counts.false_positives, counts.false_negatives, counts.iou)
        for key, counts in quality.counts.items()
    }


def test_void_of_the_ground_truth_leaves_the_union():
    # A_p = 6, A_g = 4, I = 4, V_p = 2 -> IoU = 4 / (6 + 4 - 4 - 2) = 1
    counts = counted(
        [[9, 9, 9, 9, 9, 9]], [segment(9, THING)], [[5, 5, 5, 5, 0, 0]], [segment(5, THING, 4)]
    )
    assert counts[THING] == (1, 0, 0, 1.0)


def test_iou_of_exactly_one_half_is_no_match():
    # I = 2, A_p = 2, A_g = 4 -> 2 / 4: not above 0.5
    counts = counted([[7, 7, 0, 0]], [segment(7, THING)], [[5, 5, 5, 5]], [segment(5, THING, 4)])
    assert counts[THING] == (0, 1, 1, 0.0)


def test_area_of_the_json_is_used():
    # the record says 8 pixels, 4 are left in the map: IoU = 4 / (4 + 8 - 4) = 0.5, no match
    counts = counted([[7, 7, 7, 7]], [segment(7, STUFF)], [[5, 5, 5, 5]], [segment(5, STUFF, 8)])
    assert counts[STUFF] == (0, 1, 1, 0.0)


def test_stuff_fully_covered_by_a_thing_is_a_false_negative():
    truth = [segment(256, STUFF, 4), segment(512, THING, 4)]
    counts = counted([[1, 1, 1, 1]], [segment(1, THING)], [[512] * 4], truth)
    assert counts[STUFF] == (0, 0, 1, 0.0)
    assert counts[THING] == (1, 0, 0, 1.0)


def test_prediction_inside_a_crowd_is_ignored_and_the_crowd_is_never_missed():
    truth = [segment(5, THING, 6, iscrowd=1)]
    counts = counted([[1, 1, 1, 1, 0, 0]], [segment(1, THING)], [[5] * 6], truth)
    assert counts[THING] == (0, 0, 0, 0.0)


def test_crowd_of_another_category_excuses_nothing():
    truth = [segment(5, OTHER, 6, iscrowd=1)]
    counts = counted([[1, 1, 1, 1, 0, 0]], [segment(1, THING)], [[5] * 6], truth)
    assert counts[THING] == (0, 1, 0, 0.0)
    assert counts[OTHER] == (0, 0, 0, 0.0)


def test_void_and_crowd_pixels_add_up_and_half_is_not_enough():
    # prediction of 4 pixels: 1 on VOID, 1 on the crowd -> 2 / 4, not above 0.5: false positive;
    # one more pixel on the crowd -> 3 / 4: ignored
    truth = [segment(5, THING, 3, iscrowd=1), segment(6, STUFF, 2)]
    half = counted([[1, 1, 1, 1, 0, 0]], [segment(1, THING)], [[0, 5, 6, 6, 5, 5]], truth)
    more = counted([[1, 1, 1, 0, 1, 0]], [segment(1, THING)], [[0, 5, 6, 6, 5, 5]], truth)
    assert half[THING][1] == 1
    assert more[THING][1] == 0


def test_only_the_last_crowd_of_a_category_counts():
    truth = [segment(5, THING, 3, iscrowd=1), segment(6, THING, 1, iscrowd=1)]
    counts = counted([[1, 1, 1, 0]], [segment(1, THING)], [[5, 5, 5, 6]], truth)
    assert counts[THING][1] == 1


def test_wrong_category_is_false_positive_of_its_own_and_false_negative_of_the_other():
    counts = counted([[1, 1]], [segment(1, OTHER)], [[5, 5]], [segment(5, THING, 2)])
    assert counts[OTHER] == (0, 1, 0, 0.0)
    assert counts[THING] == (0, 0, 1, 0.0)


def test_averages_by_hand():
    # cat: IoU 3/4 and one false positive -> PQ = 0.75 / 1.5 = 1/2, SQ = 3/4, RQ = 1 / 1.5;
    # wall: missed -> all 0; dog does not occur and enters no average
    quality = PanopticQuality(categories=CATEGORIES)
    truth = np.array([[5, 5, 5, 5, 6, 6]])
    records = [segment(5, THING, 4), segment(6, STUFF, 2)]
    prediction = np.array([[1, 1, 1, 0, 2, 2]])
    quality.update(prediction, [segment(1, THING), segment(2, THING)], truth, records, image_id="x")
    scores = quality.scores(["x"]).as_dict()
    assert (scores["PQ_th"], scores["SQ_th"]) == (pytest.approx(50), pytest.approx(75))
    assert scores["RQ_th"] == pytest.approx(100 / 1.5)
    assert (scores["PQ_st"], scores["SQ_st"], scores["RQ_st"]) == (0, 0, 0)
    assert (scores["PQ"], scores["SQ"]) == (pytest.approx(25), pytest.approx(37.5))
    assert [scores[key] for key in ("categories", "categories_th", "categories_st")] == [2, 1, 1]
    records = quality.scores(["x"]).per_class()
    assert records[THING]["FP"] == 1
    assert records[OTHER]["PQ"] is None


def test_nothing_predicted_is_all_missed():
    counts = counted([[0, 0]], [], [[5, 5]], [segment(5, THING, 2)])
    assert counts[THING] == (0, 0, 1, 0.0)


def test_parts_of_two_processes_add_up():
    whole = PanopticQuality(categories=CATEGORIES)
    parts = [PanopticQuality(categories=CATEGORIES) for _ in range(2)]
    rng = np.random.default_rng(0)
    for index in range(6):
        truth = 1 + rng.integers(0, 2, (4, 4)).cumsum(axis=1) // 3
        noise = np.where(rng.random((4, 4)) < 0.2, 1, truth)
        records = [segment(int(k), int(k) % 3, int((truth == k).sum())) for k in np.unique(truth)]
        guesses = [segment(int(k), int(k) % 3) for k in np.unique(noise)]
        for quality in (whole, parts[index % 2]):
            quality.update(noise, guesses, truth, records, image_id=str(index))
    total, expected = parts[0] + parts[1], [str(index) for index in range(6)]
    assert total.scores(expected).as_dict() == pytest.approx(whole.scores(expected).as_dict())
    with pytest.raises(ValueError, match="evaluated twice"):
        whole + parts[0]


@pytest.mark.parametrize(
    ("prediction", "segments", "message"),
    [
        ([[1, 2]], [segment(1, THING)], "prediction of x: the map holds id 2"),
        ([[1, 1]], [segment(1, THING), segment(3, THING)], "segment 3 is listed but has no pixel"),
        ([[1, 1]], [segment(1, 77)], "category 77"),
        ([[1, 1]], [segment(1, THING), segment(1, STUFF)], "must be unique"),
        ([[1, 1, 1]], [segment(1, THING)], "differ in height x width"),
    ],
)
def test_predictions_that_disagree_with_their_records(prediction, segments, message):
    with pytest.raises(DataError, match=message):
        counted(prediction, segments, [[5, 5]], [segment(5, THING, 2)])


def write_truth(folder: Path) -> Path:
    (folder / "png").mkdir()
    Image.fromarray(np.array([[[5, 1, 0], [5, 1, 0]]], np.uint8)).save(folder / "png" / "a.png")
    record = {"image_id": "a", "file_name": "a.png", "segments_info": [segment(261, THING, 2)]}
    content = {"categories": list(CATEGORIES.values()), "annotations": [record]}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "panoptic.json"


def test_files_and_subsets(tmp_path: Path):
    paths = {"panoptic_json": write_truth(tmp_path), "panoptic_root": tmp_path / "png"}
    prediction = (np.array([[3, 3]]), [segment(3, THING)])
    assert panoptic_quality({"a": prediction}, **paths).as_dict()["PQ"] == 100  # 261 = 5 + 256
    with pytest.raises(DataError, match=r"1 missing \['a'\]"):
        panoptic_quality({}, **paths)
    assert panoptic_quality({}, image_ids=[], **paths).as_dict()["PQ"] is None


def test_damaged_ground_truth_names_the_file(tmp_path: Path):
    panoptic_json = write_truth(tmp_path)
    truth = PanopticTruth.read(panoptic_json, tmp_path / "png")
    png = tmp_path / "png" / "a.png"
    png.write_bytes(png.read_bytes()[:50])
    with pytest.raises(DataError, match=r"a\.png: damaged"):
        truth.ids("a")
    Image.new("L", (2, 2)).save(png)
    with pytest.raises(DataError, match=r"a\.png: label map of mode L, expected RGB"):
        truth.ids("a")
    png.unlink()
    with pytest.raises(DataError, match=r"a\.png: no such"):
        truth.ids("a")
    panoptic_json.write_text("{}")
    with pytest.raises(DataError, match=r"panoptic\.json: no panoptic JSON"):
        PanopticTruth.read(panoptic_json, tmp_path)
    with pytest.raises(DataError, match=r"gone\.json: no such file"):
        PanopticTruth.read(tmp_path / "gone.json", tmp_path)


# Values of the COCO panoptic tools' own formula on two photographs of COCO val 2017.
SHIFTED = {
    0: {"": (100, 100, 100, 8), "_th": (100, 100, 100, 4), "_st": (100, 100, 100, 4)},
    3: {
        "": (78.518185, 80.407177, 97.421329, 8),
        "_th": (68.252816, 72.030799, 94.842657, 4),
        "_st": (88.783555, 88.783555, 100, 4),
    },
    8: {
        "": (52.653257, 61.239628, 72.202797, 8),
        "_th": (27.744431, 44.917173, 44.405594, 4),
        "_st": (77.562082, 77.562082, 100, 4),
    },
}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real COCO samples are not on this machine")
@pytest.mark.parametrize("columns", SHIFTED)
def test_real_photographs_with_the_label_map_shifted(columns: int):
    paths = (SAMPLES / "panoptic_examples.json", SAMPLES / "panoptic_examples")
    truth = PanopticTruth.read(*paths)
    predictions = {}
    for image_id, record in truth.annotations.items():
        ids = truth.ids(image_id)
        shifted = np.zeros_like(ids)
        shifted[:, columns:] = ids[:, : ids.shape[1] - columns]
        left = set(np.unique(shifted).tolist())
        kept = [item for item in record["segments_info"] if item["id"] in left]
        predictions[image_id] = (shifted, kept)
    scores = panoptic_quality(predictions, panoptic_json=paths[0], panoptic_root=paths[1])
    values = scores.as_dict()
    for suffix, expected in SHIFTED[columns].items():
        found = [values[name + suffix] for name in ("PQ", "SQ", "RQ", "categories")]
        assert found == pytest.approx(expected, abs=5e-7)
    if columns == 3:
        records = {record["id"]: record for record in scores.per_class()}
        assert [records[1][key] for key in ("TP", "FP", "FN")] == [23, 3, 3]
        assert [records[19][key] for key in ("TP", "FP", "FN")] == [10, 1, 1]


@pytest.mark.parametrize("area", [1, 99, 0])
def test_an_area_below_the_pixels_is_refused(area: int):
    # 100 pixels over a union of 1 would be 10,000 %
    ids = np.full((10, 10), 5)
    quality = PanopticQuality(categories={0: {"id": 0, "name": "a", "isthing": 1}})
    truth = [{"id": 5, "category_id": 0, "area": area, "iscrowd": 0}]
    with pytest.raises(DataError, match=f"segment 5 has 100 pixels, but states an area of {area}"):
        quality.update(ids, [{"id": 5, "category_id": 0}], ids, truth, image_id="x")


def test_an_area_larger_than_the_image_is_refused(tmp_path: Path):
    panoptic_json = write_truth(tmp_path)
    content = json.loads(panoptic_json.read_text())
    content["annotations"][0]["segments_info"][0]["area"] = 10**6
    panoptic_json.write_text(json.dumps(content))
    truth = PanopticTruth.read(panoptic_json, tmp_path / "png")
    with pytest.raises(DataError, match=r"states an area of 1000000, but .*a\.png has 2 pixels"):
        truth.ids("a")
