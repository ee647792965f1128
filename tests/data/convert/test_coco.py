import json
from pathlib import Path

import numpy as np
import pytest

from maftp.data.convert.coco import (
    REMOVED_IDS,
    check_categories,
    panoptic_to_semantic,
    read_panoptic_json,
    stuff_classes,
    stuff_table,
)
from maftp.data.images import read_label, segment_colors, segment_ids
from maftp.data.vocabulary import read_vocabulary
from maftp.errors import DataError

OFFICIAL = [i for i in range(1, 183) if i not in REMOVED_IDS]
HERE = Path("labels.png")


def test_official_table():
    table = stuff_table(OFFICIAL)
    # value = id - 1; class = value less the removed values below it: 26 has 11 and 25 below
    spots = {0: 0, 10: 10, 12: 11, 26: 24, 27: 25, 30: 26, 89: 79, 91: 80, 181: 170, 255: 255}
    assert {value: int(table[value]) for value in spots} == spots
    classes = [int(table[i - 1]) for i in OFFICIAL]
    assert classes == list(range(171))
    assert all(table[i - 1] == 255 for i in REMOVED_IDS) and (table[182:] == 255).all()


def test_table_equals_the_rule_by_counting():
    removed = [i - 1 for i in REMOVED_IDS]
    table = stuff_table(OFFICIAL)
    for value in range(182):
        if value not in removed:
            assert table[value] == value - sum(m < value for m in removed)


def test_every_value_of_a_map():
    raw = np.arange(256, dtype=np.uint8).reshape(16, 16)
    label, odd = stuff_classes(raw, stuff_table(OFFICIAL), HERE)
    assert label.dtype == np.uint8
    assert sorted(set(label.ravel().tolist())) == [*range(171), 255]
    # 256 values less 171 classes less 255 itself: 11 removed ids and 182..254
    assert odd == 256 - 171 - 1


def test_a_wholly_unlabelled_map_stays_so():
    label, odd = stuff_classes(np.full((3, 4), 255, np.uint8), stuff_table(OFFICIAL), HERE)
    assert (label == 255).all() and odd == 0


def test_a_category_that_the_vocabulary_lacks_is_an_error():
    with pytest.raises(DataError, match=r"labels\.png: value 2 is not a class"):
        stuff_classes(np.array([[0, 2]], np.uint8), stuff_table([1, 2]), HERE)


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [0, 1], [11, 12], [183]])
def test_ids_that_are_not_coco_stuffs(ids):
    with pytest.raises(DataError, match="row indices must be COCO-Stuff category ids"):
        stuff_table(ids)


def test_vocabularies_have_the_official_ids(samples):
    path = samples / "vocabularies"
    stuff = read_vocabulary(path / "coco_stuff_with_prompt_eng.txt")
    assert [category.row for category in stuff.categories] == OFFICIAL
    panoptic = read_vocabulary(path / "coco_panoptic_with_prompt_eng.txt")
    found = read_panoptic_json(samples / "coco_panoptic/panoptic_examples.json")
    check_categories(found.categories, panoptic, HERE)
    isthing = [category["isthing"] for category in found.categories]
    assert isthing == [1] * 80 + [0] * 53


def test_panoptic_to_semantic_by_hand():
    ids = np.array([[0, 7, 7], [300, 70000, 0]], np.int32)
    segments = [
        {"id": 7, "category_id": 92, "iscrowd": 0},
        {"id": 70000, "category_id": 1, "iscrowd": 1},
        {"id": 300, "category_id": 2, "iscrowd": 0},
    ]
    label = panoptic_to_semantic(ids, segments, {1: 0, 2: 1, 92: 2}, HERE)
    assert label.tolist() == [[255, 2, 2], [1, 0, 255]] and label.dtype == np.uint8


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(7, 1), (8, 1)], "segment 8 has no pixel"),
        ([(6, 1)], "segment 6 has no pixel"),
        ([], "an id is not listed"),
        ([(7, 99)], "segment 7 has the unknown category 99"),
    ],
)
def test_panoptic_maps_and_annotations_that_differ(segments, message):
    listed = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in segments]
    with pytest.raises(DataError, match=message):
        panoptic_to_semantic(np.array([[0, 7]], np.int32), listed, {1: 0}, HERE)


def test_real_panoptic_maps(samples):
    found = read_panoptic_json(samples / "coco_panoptic/panoptic_examples.json")
    ranks = {category["id"]: rank for rank, category in enumerate(found.categories)}
    voids = {}
    for stem, annotation in found.annotations.items():
        path = samples / f"coco_panoptic/panoptic_examples/{stem}.png"
        ids = segment_ids(read_label(path, modes=("RGB",)))
        label = panoptic_to_semantic(ids, annotation["segments_info"], ranks, path)
        voids[int(stem)] = int((label == 255).sum())
        # independent of the table look-up: a pass per segment
        slow = np.full(ids.shape, 255, np.uint8)
        for segment in annotation["segments_info"]:
            slow[ids == segment["id"]] = ranks[segment["category_id"]]
            assert (ids == segment["id"]).sum() == segment["area"]
        assert np.array_equal(label, slow)
    assert voids == {142238: 2712, 439180: 7189}


def test_segment_ids_and_colours_are_inverse():
    ids = np.array([[0, 255, 256], [65535, 65536, 2**24 - 1]], np.int32)
    colors = segment_colors(ids)
    assert colors[1, 1].tolist() == [0, 0, 1] and np.array_equal(segment_ids(colors), ids)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"categories": [], "annotations": [{}]})]
)
def test_no_panoptic_json(content, tmp_path):
    path = tmp_path / "panoptic.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"panoptic\.json: (no panoptic JSON|annotations\.0)"):
        read_panoptic_json(path)


def test_categories_that_the_vocabulary_lacks(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("1:person\n2:bicycle")
    vocabulary = read_vocabulary(path)
    with pytest.raises(DataError, match="1 categories do not match the 2 classes.*id 2 is in only"):
        check_categories([{"id": 1}], vocabulary, HERE)
