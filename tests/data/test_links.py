import pytest

from maftp.data.links import LINKS, make_links
from maftp.errors import DataError

FOLDERS = [
    "ade/ADEChallengeData2016/annotations_instance/validation",
    "coco/annotations",
    "coco/panoptic_val2017",
    "VOCdevkit/VOC2010/images",
    "VOCdevkit/VOC2012/annotations_ovs/val",
]


def test_other_names_lead_to_the_same_folders(tmp_path):
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    made = make_links(tmp_path)
    assert len(made) == len(LINKS) - 1  # there is no panoptic_train2017
    same = {
        "ade20k/ADEChallengeData2016/panoptic/annotations_instance/validation": FOLDERS[0],
        "coco/coco17/annotations/panoptic_val2017": FOLDERS[2],
        "pascal/VOCdevkit/VOC2010/val/image": FOLDERS[3],
        "pascal/VOCdevkit/VOC2012/annotations_detectron2_ovs/val": FOLDERS[4],
    }
    for name, folder in same.items():
        assert (tmp_path / name).samefile(tmp_path / folder)
    assert make_links(tmp_path) == []


def test_nothing_to_link_to(tmp_path):
    assert make_links(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "ade").mkdir()
    (tmp_path / "ade20k").mkdir()
    with pytest.raises(DataError, match="ade20k: exists and is no link to ade"):
        make_links(tmp_path)
