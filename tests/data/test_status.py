import shutil

import pytest

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.status import LINKS, dataset_status, make_links, weights_status
from maftp.data.unpack import unpack_source
from maftp.errors import DataError


@pytest.fixture
def world(overlay, tmp_path):
    return load_catalog(overlay), tmp_path / "root"


def look(world, name="ade20k_150"):
    status = dataset_status(name, *world)
    return status.state, {source.name: source.state for source in status.sources}


def test_from_nothing_to_converted(world):
    catalog, root = world
    challenge, names = "ade20k_challenge", "vocabulary_ade20k_150"
    assert look(world) == ("not there", {challenge: "missing", names: "missing"})
    part = archives_dir(root) / "ADEChallengeData2016.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"12345")
    assert look(world)[1][challenge] == "partly downloaded"
    for name in (challenge, names):
        fetch(catalog.sources[name], archives_dir(root))
    assert look(world) == ("not there", {challenge: "verified", names: "verified"})
    for name in (challenge, names):
        unpack_source(name, catalog, root)
    assert look(world) == ("to be converted", {challenge: "unpacked", names: "unpacked"})
    convert("ade20k_150", catalog, root, workers=1)
    status = dataset_status("ade20k_150", catalog, root)
    assert (status.state, status.found, status.expected) == ("converted", 8, 8)
    files = [*(root / "ade/ADEChallengeData2016/images").rglob("*.jpg")]
    files += (root / "ade/ADEChallengeData2016/annotations_detectron2").rglob("*.png")
    assert status.bytes == sum(file.stat().st_size for file in files)
    files[0].unlink()
    status = dataset_status("ade20k_150", catalog, root)
    assert (status.state, status.found) == ("lacking files", 7)


def test_data_that_were_prepared_elsewhere(world):
    catalog, root = world
    for name in catalog.datasets["ade20k_150"].sources:
        fetch(catalog.sources[name], archives_dir(root))
        unpack_source(name, catalog, root)
    convert("ade20k_150", catalog, root, workers=1)
    for folder in ("archives", "manifests"):
        shutil.rmtree(root / folder)
    state, sources = look(world)
    assert state == "ready" and set(sources.values()) == {"put in place"}


def test_an_archive_put_there_by_hand(world):
    catalog, root = world
    archive = archives_dir(root) / catalog.sources["voc2012"].file
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"something")
    assert look(world, "pascal_voc_20")[1]["voc2012"] == "not verified"


def test_where_to_ask(tmp_path):
    sources = dataset_status("ade20k_847", load_catalog(), tmp_path).sources
    full = next(source for source in sources if source.name == "ade20k_full")
    assert full.state == "missing (registration)"
    assert full.note == "ask at https://ade20k.csail.mit.edu/request_data/"


def test_weights(tmp_path):
    catalog = load_catalog()
    found = {status.name: status.state for status in weights_status(catalog, tmp_path)}
    assert {"maftp_b", "maftp_l", "maftp_l_pano"} < found.keys() == catalog.weights.keys()
    assert set(found.values()) == {"missing"}


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
    with pytest.raises(DataError, match="ade20k: exists and is not a link to ade"):
        make_links(tmp_path)
