import collections
import json
import pickle

import numpy as np
import pytest

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.unpack import unpack_source
from maftp.data.verify import read_index_files, verify_archives, verify_dataset
from maftp.errors import DataError


@pytest.fixture
def converted(overlay, tmp_path):
    """Return a function that converts a dataset and returns catalog and root."""
    root, catalog = tmp_path / "root", load_catalog(overlay)

    def prepare(name):
        for source in catalog.datasets[name].sources:
            fetch(catalog.sources[source], archives_dir(root))
            unpack_source(source, catalog, root)
        convert(name, catalog, root, workers=1)
        return catalog, root

    return prepare


def problems(name, converted):
    catalog, root = converted
    return verify_archives(name, catalog, root) + verify_dataset(name, catalog, root, workers=1)


@pytest.mark.parametrize("name", sorted(load_catalog().datasets))
def test_everything_is_sound(name, converted):
    assert problems(name, converted(name)) == []


def test_a_label_that_was_changed(converted):
    found = converted("coco_stuff")
    folder = found[1] / "coco/stuffthingmaps_detectron2/train2017"
    first, second = sorted(folder.glob("*.png"))[:2]
    first.write_bytes(second.read_bytes())  # sound, but another image's
    (problem,) = problems("coco_stuff", found)
    assert problem.startswith(f"{first}: not the file that the conversion wrote")


def test_an_image_cut_short(converted):
    found = converted("ade20k_847")
    image = next((found[1] / "ade/ADE20K_2021_17_01/images_detectron2/training").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-300])
    (problem,) = problems("ade20k_847", found)
    assert problem.startswith(f"{image}: damaged or cut short")


def test_a_lost_file_and_a_strange_one(converted):
    found = converted("pascal_voc_20")
    folder = found[1] / "VOCdevkit/VOC2012/annotations_ovs/val"
    lost = sorted(folder.glob("*.png"))[0]
    lost.rename(folder / "strange.png")
    (problem,) = problems("pascal_voc_20", found)
    assert problem.startswith(f"{folder}: nothing for {lost.stem!r}")


def test_annotations_and_tables_that_were_changed(converted):
    found = converted("ade20k_panoptic")
    annotations = found[1] / "ade/ADEChallengeData2016/ade20k_panoptic_val.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["segments_info"][0]["area"] += 1
    annotations.write_text(json.dumps(content))
    table = found[1] / "manifests/ade20k_panoptic_train.csv"
    table.write_text(table.read_text().replace(",10,", ",11,"))
    messages = problems("ade20k_panoptic", found)
    assert [message.split(":")[0] for message in messages] == [str(table), str(annotations)]


def test_an_archive_that_was_changed(converted):
    found = converted("pascal_voc_20")
    archive = found[1] / "archives/VOCtrainval_11-May-2012.tar"
    data = archive.read_bytes()
    archive.unlink()
    archive.write_bytes(data[:-10] + b"0123456789")
    (problem,) = problems("pascal_voc_20", found)
    assert "VOCtrainval_11-May-2012.tar: sha256 is" in problem


def test_the_index_of_the_full_ade20k(converted):
    found = converted("ade20k_847")
    tree = found[1] / "ade/ADE20K_2021_17_01"
    names = sorted(path.name for path in (tree / "images/ADE").rglob("ADE_*.jpg"))
    (tree / "index_ade20k.pkl").write_bytes(pickle.dumps({"filename": names}))
    assert problems("ade20k_847", found) == []
    (tree / "index_ade20k.pkl").write_bytes(pickle.dumps({"filename": [*names, "ADE_x_1.jpg"]}))
    messages = problems("ade20k_847", found)
    assert all(
        "4 images, the index of the archive lists 5 (1 differ, first ADE_x_1)" in m
        for m in messages
    )
    assert messages


def test_what_is_not_converted(overlay, tmp_path):
    with pytest.raises(DataError, match="not converted; run 'maftp convert coco_stuff'"):
        verify_dataset("coco_stuff", load_catalog(overlay), tmp_path, workers=1)


FILES = ["ADE_train_00000001.jpg", "ADE_val_00000001.jpg"]


def index(**more):
    """An index of the published form: lists of text, and numpy matrices."""
    return {
        "filename": FILES,
        "folder": ["ADE20K_2021_17_01/images/ADE/training/urban/street"] * 2,
        "objectIsPart": np.zeros((3, 2)),
        "typeset": np.array(["training", "validation"], dtype=object),
        "wordnet_found": np.float64(3.0),
        **more,
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol, tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    content = index(extra=collections.OrderedDict(a={1, 2}, b=b"bytes", c=(1 + 2j, None, 2.5)))
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_index_files(path) == FILES


def test_names_of_older_numpy(tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    data = pickle.dumps(index(), protocol=2)
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_index_files(path) == FILES


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("place", ["filename", "folder", "array"])
def test_nothing_in_it_is_run(place, protocol, tmp_path):
    marker = tmp_path / "ran"
    evil = Evil(open, str(marker), "w")
    content = index(array=np.array([evil], dtype=object)) if place == "array" else index()
    if place != "array":
        content[place] = evil
    path = tmp_path / "index_ade20k.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match=r"index_ade20k\.pkl: .*which is not data.*unpack"):
        read_index_files(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["getattr", "eval", "__import__"])
def test_builtins_that_lead_further_are_refused(name, tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(DataError, match=f"builtins.{name}"):
        read_index_files(path)


def test_damaged_or_no_index(tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    whole = pickle.dumps(index())
    for data in (whole[:40], b"", pickle.dumps([1, 2]), pickle.dumps(index(filename=[]))):
        path.write_bytes(data)
        with pytest.raises(DataError, match="unpack its archive again"):
            read_index_files(path)
    with pytest.raises(DataError, match=r"none\.pkl: no such index"):
        read_index_files(tmp_path / "none.pkl")
