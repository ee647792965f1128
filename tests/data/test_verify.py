import json
import pickle

import pytest

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.unpack import unpack_source
from maftp.data.verify import verify_archives, verify_dataset
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
