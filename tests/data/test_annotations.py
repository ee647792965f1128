"""Every field of an annotation file that would change a score, wrong in every way we know."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maftp.data.annotations import check_segments, read_instance_json, read_panoptic_json
from maftp.errors import DataError


def panoptic():
    segments = [
        {"id": 7, "category_id": 1, "area": 50, "iscrowd": 0, "bbox": [0, 0, 5, 10]},
        {"id": 2**24 - 1, "category_id": 3, "area": 50, "iscrowd": 1, "bbox": [5, 0, 5, 10]},
    ]
    return {
        "categories": [
            {"id": 3, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
            {"id": 1, "name": "cat", "isthing": 1},
        ],
        "annotations": [
            {"image_id": 1, "file_name": "a.png", "segments_info": segments},
            {"image_id": "b", "file_name": "b.png", "segments_info": []},
        ],
    }


def instances():
    code = coco_mask.encode(np.asfortranarray(np.eye(4, 6, dtype=np.uint8)))
    mask = {"size": [4, 6], "counts": code["counts"].decode()}
    plain = {"size": [4, 6], "counts": [3, 4, 17]}
    common = {"category_id": 7, "area": 4, "bbox": [0, 0, 4, 4], "iscrowd": 0}
    return {
        "categories": [{"id": 8, "name": "door"}, {"id": 7, "name": "bed"}],
        "images": [
            {"id": 1, "file_name": "ADE_val_00000001.jpg", "height": 4, "width": 6},
            {"id": 2, "file_name": "ADE_val_00000002.jpg", "height": 4, "width": 6},
        ],
        "annotations": [
            common | {"id": 1, "image_id": 1, "segmentation": mask},
            common | {"id": 2, "image_id": 1, "segmentation": plain},
            common | {"id": 3, "image_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]},
        ],
    }


def at(content, place):
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in way:
        content = content[key]
    return content, last


def write(tmp_path, content):
    path = tmp_path / "ann.json"
    path.write_text(json.dumps(content))
    return path


SEGMENT = "annotations.0.segments_info.0"
PANOPTIC_FIELDS = {
    f"{SEGMENT}.id": [0, -1, 2**24, 2**31, 2**70, "7", 7.5, 7.0, True, None, [7]],
    f"{SEGMENT}.category_id": [2, -1, "1", 1.0, True, None, {}],
    f"{SEGMENT}.area": [-1, "50", 50.5, True, None],
    f"{SEGMENT}.iscrowd": ["0", "1", 2, -1, 0.0, False, None],
    "annotations.0.image_id": ["", 1.0, True, None, [1], "b"],
    "annotations.0.file_name": ["x/a.png", "a.jpg", "a", "", "..\\a.png", None, 1, "b.png"],
    "annotations.0.segments_info": [None, {}, "", 3, [3], [[]]],
    "annotations.0": [None, [], "a", 1],
    "annotations": [None, {}, 3],
    "categories.0.id": ["3", -1, 3.0, True, None, 1, 5],
    "categories.0.isthing": ["1", 2, None, True, 0.0],
    "categories.0.name": [None, 3, ["sky"]],
    "categories": [None, {}, []],
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, v) for place, values in PANOPTIC_FIELDS.items() for v in values]
)
def test_a_wrong_value_of_a_panoptic_file_is_named(place, value, tmp_path):
    content = panoptic()
    holder, key = at(content, place)
    holder[key] = value
    with pytest.raises(DataError, match=r"ann\.json: ") as caught:
        read_panoptic_json(write(tmp_path, content))
    assert "\n" not in str(caught.value) and "Error" not in str(caught.value)


@pytest.mark.parametrize("place", [p for p in PANOPTIC_FIELDS if p != "annotations.0"])
def test_a_missing_field_of_a_panoptic_file_is_named(place, tmp_path):
    content = panoptic()
    holder, key = at(content, place)
    del holder[key]
    with pytest.raises(DataError, match=key):
        read_panoptic_json(write(tmp_path, content))


@pytest.mark.parametrize("place", ["categories.0", "annotations.0", SEGMENT])
def test_nothing_occurs_twice_in_a_panoptic_file(place, tmp_path):
    content = panoptic()
    holder, key = at(content, place)
    holder.append(copy.deepcopy(holder[key]))
    with pytest.raises(DataError, match="occurs twice"):
        read_panoptic_json(write(tmp_path, content))


def test_one_id_for_two_categories_and_two_annotations_of_one_image(tmp_path):
    content = panoptic()
    at(content, SEGMENT)[0][1]["id"] = 7
    with pytest.raises(DataError, match=r"annotations\.0\.segments_info\.id: 7 occurs twice"):
        read_panoptic_json(write(tmp_path, content))
    content = panoptic()
    content["annotations"][1]["image_id"] = "1"  # 1 as text: ids are compared as text
    with pytest.raises(DataError, match=r"annotations\.image_id: '1' occurs twice"):
        read_panoptic_json(write(tmp_path, content))


def test_a_sound_panoptic_file_is_kept_as_it_is(tmp_path):
    content = panoptic()
    found = read_panoptic_json(write(tmp_path, content))
    assert found.categories == content["categories"][::-1]
    assert found.annotations == dict(zip("ab", content["annotations"], strict=True))
    assert list(found.categories[1]) == ["id", "name", "isthing", "color"]


MASK = "annotations.0.segmentation"
INSTANCE_FIELDS = {
    "annotations.0.id": ["1", None, 1.5, True, 2],
    "annotations.0.image_id": [3, "1", None],
    "annotations.0.category_id": [9, "7", None, -1],
    "annotations.0.iscrowd": ["0", 2, None],
    "annotations.0.area": [-1, "4", None],
    "annotations.0.bbox": [[1, 2, 3], "0 0 4 4", None],
    MASK: [None, "x", 3, {}, [[1, 2]], []],
    f"{MASK}.size": [[6, 4], [4], ["4", "6"], None, [4, 6, 1], [0, 0]],
    f"{MASK}.counts": [None, 3, [1, 2], [-1, 25], "z~", {}],
    "images.0.id": [None, 2, 1.0, True],
    "images.0.file_name": [None, 3, "", "ADE_val_00000002.jpg"],
    "images.0.height": [0, -4, "4", None, 5],
    "images.0.width": [0, "6", None, 5],
    "images.0": [None, []],
    "categories.0.id": ["8", None, 7, -1],
    "categories.0.isthing": ["1", 2],
    "categories": [None, [], {}],
    "images": [None, [], {}],
    "annotations": [None, {}],
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, v) for place, values in INSTANCE_FIELDS.items() for v in values]
)
def test_a_wrong_value_of_an_instance_file_is_named(place, value, tmp_path):
    content = instances()
    holder, key = at(content, place)
    holder[key] = value
    with pytest.raises(DataError, match=r"ann\.json: ") as caught:
        read_instance_json(write(tmp_path, content))
    assert "\n" not in str(caught.value) and "Error" not in str(caught.value)


def test_public_ade_instances_have_numbered_images_and_categories_without_isthing(tmp_path):
    found = read_instance_json(write(tmp_path, instances()))
    assert [(c["id"], c["isthing"]) for c in found.categories] == [(7, 1), (8, 1)]
    assert [len(entries) for entries in found.annotations.values()] == [3, 0]
    assert list(found.images) == ["ADE_val_00000001", "ADE_val_00000002"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"categories": []}']
)
@pytest.mark.parametrize("read", [read_panoptic_json, read_instance_json])
def test_what_is_no_such_file(read, data, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.json: no (panoptic|COCO instance) JSON"):
        read(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read(tmp_path / "none.json")


def test_lists_of_segments(tmp_path):
    segments = panoptic()["annotations"][0]["segments_info"]
    assert check_segments(segments, tmp_path) == segments
    assert check_segments([], tmp_path) == []
    for wrong in (None, {}, [{}], segments * 2):
        with pytest.raises(DataError, match="segments_info"):
            check_segments(wrong, tmp_path)
