from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maftp.data.convert.ade20k import (
    STUFF_IDS,
    instance_annotations,
    panoptic_segments,
    scene_table,
    thing_ids,
)
from maftp.data.convert.panoptic import count_segments
from maftp.errors import DataError

HERE = Path("instances.png")


def test_official_classes():
    things = thing_ids(150)
    assert len(things) == 100 and len(STUFF_IDS) == 50
    assert things[:3] == [7, 8, 10] and things[-1] == 149


def test_a_prefix_of_the_classes():
    assert thing_ids(11) == [7, 8, 10]
    assert thing_ids(7) == []


def test_scene_table():
    table = scene_table(150)
    assert table[0] == 255 and table[1] == 0 and table[150] == 149
    assert (table[151:] == 254).all()
    assert scene_table(9)[10] == 254


def painted():
    """Wall everywhere but a column of other; a bed (class 7) covers the sky (class 2) wholly."""
    semantic = np.ones((4, 6), np.uint8)
    semantic[:, 5] = 0
    semantic[1:3, 1:3] = 3
    semantic[3, 0] = 8  # thing pixel of the semantic map without an instance: stays void
    instances = np.zeros((4, 6, 3), np.uint8)
    instances[1:3, 1:4, :2] = 1, 5
    instances[0, 5, :2] = 2, 2  # window pane (class 8) where the semantic map says other
    instances[..., 2] = 77  # the third channel is not used
    return semantic, instances


def test_panoptic_painting_by_hand():
    ids, segments = panoptic_segments(*painted(), classes=150, path=HERE)
    wall, sky, bed, pane = 256 * 1 + 1, 256 * 3 + 1, 256 * 8 + 1, 256 * 9 + 1
    assert ids.tolist() == [
        [wall, wall, wall, wall, wall, pane],
        [wall, bed, bed, bed, wall, 0],
        [wall, bed, bed, bed, wall, 0],
        [0, wall, wall, wall, wall, 0],
    ]
    # Stuff by class, then things by number: pane is 2, bed is 5. Areas and boxes are those before
    # the bed was painted: 20 - 4 - 1 wall pixels (13 are left), 4 of sky (none is left).
    assert segments == [
        {"id": wall, "category_id": 0, "area": 15, "bbox": [0, 0, 5, 4], "iscrowd": 0},
        {"id": sky, "category_id": 2, "area": 4, "bbox": [1, 1, 2, 2], "iscrowd": 0},
        {"id": pane, "category_id": 8, "area": 1, "bbox": [5, 0, 1, 1], "iscrowd": 0},
        {"id": bed, "category_id": 7, "area": 6, "bbox": [1, 1, 3, 2], "iscrowd": 0},
    ]
    visible = count_segments(ids, segments, HERE)
    assert visible == {0: 4, wall: 13, sky: 0, pane: 1, bed: 6}


def test_instances_of_one_category_are_numbered():
    instances = np.zeros((1, 4, 3), np.uint8)
    instances[0, :, 0] = 1
    instances[0, :, 1] = [9, 3, 3, 200]
    ids, _ = panoptic_segments(np.zeros((1, 4), np.uint8), instances, classes=150, path=HERE)
    assert ids.tolist() == [[2048 + 2, 2048 + 1, 2048 + 1, 2048 + 3]]


@pytest.mark.parametrize(
    ("red", "message"),
    [
        ([1, 2], "instance 5 has two categories"),
        ([0, 0], "category 0"),
        ([101, 101], "category 101"),
    ],
)
def test_wrong_instances(red, message):
    instances = np.zeros((1, 2, 3), np.uint8)
    instances[0, :, 0], instances[0, :, 1] = red, 5
    with pytest.raises(DataError, match=message):
        panoptic_segments(np.zeros((1, 2), np.uint8), instances, classes=150, path=HERE)


def test_unknown_class_and_other_size():
    with pytest.raises(DataError, match="a value above 9"):
        panoptic_segments(
            np.full((2, 2), 10, np.uint8), np.zeros((2, 2, 3), np.uint8), classes=9, path=HERE
        )
    with pytest.raises(DataError, match="pixels, the label map has"):
        panoptic_segments(
            np.zeros((2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), classes=9, path=HERE
        )


def test_instance_annotations():
    _, instances = painted()
    found = instance_annotations(instances, classes=150, path=HERE)
    assert [(a["category_id"], a["bbox"], a["area"]) for a in found] == [
        (8, [5, 0, 1, 1], 1),
        (7, [1, 1, 3, 2], 6),
    ]
    mask = coco_mask.decode(found[1]["segmentation"])
    assert np.array_equal(mask, instances[..., 1] == 5)


def test_an_unlisted_id_is_an_error():
    with pytest.raises(DataError, match="an id is not listed"):
        count_segments(np.array([[0, 7]], np.int32), [], HERE)
