"""From two folders to records, in every form; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from maftp.cli import main
from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.own.entry import check_name, enter, entered
from maftp.data.own.forms import Given, check
from maftp.data.records import list_records
from maftp.data.status import dataset_status
from maftp.data.unpack import unpack_source
from maftp.data.verify import verify_dataset
from maftp.errors import DataError
from tests.data.own.conftest import (
    coloured,
    grey,
    grey_as_rgb,
    instance_json,
    palette,
    panoptic_json,
    values_of,
    wide,
    write_json,
)

ROOT = Path(__file__).resolve().parents[3]
COLOUR_LIST = "128 64 128 road\n#000000 ignore\n70,130,180 sky\n0 0 142\tauto\n"


def added(given, root, *, split="val", name="street", replace=False):
    """Enter what is given, prepare it as the rules do, and return catalog and records."""
    own = root / "own.yaml"
    checked = check(given)
    enter(checked, name=name, split=split, root=root, own=own, replace=replace)
    catalog = load_catalog(own=own)
    dataset = catalog.dataset(name)
    for source in dataset.sources:
        unpack_source(source, catalog, root)
    convert(name, catalog, root, workers=1)
    return catalog, list_records(name, dataset, split, root=root)


@pytest.mark.parametrize("save", [grey, wide, palette, grey_as_rgb, coloured])
def test_label_maps_of_every_form(folders, tmp_path, save):
    made, root = folders(save), tmp_path / "root"
    colours = made.path / "colours.txt"
    colours.write_text(COLOUR_LIST)
    chosen = colours if save is coloured else None
    given = Given(made.images, made.masks, names=made.names, palette=chosen)
    catalog, records = added(given, root)
    assert [record["image_id"] for record in records] == list(made.classes)
    checked = check(given)
    for record, (stem, classes) in zip(records, made.classes.items(), strict=True):
        label = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert np.array_equal(label, np.where(classes < 0, 255, classes)) and label.dtype == "u1"
        assert np.array_equal(checked.labels_of(stem), classes)
        assert Image.open(record["file_name"]).size == (16, 12) and record["trainable"]
    assert verify_dataset("street", catalog, root, workers=1) == []
    assert dataset_status("street", catalog, root).state == "converted"
    benchmark = catalog.benchmark("street")
    assert (benchmark.dataset, benchmark.split, benchmark.metric) == ("street", "val", "semantic")
    names = (root / "vocabularies/street_with_prompt_eng.txt").read_text()
    assert names == "0:sky\n1:car, auto\n3:road\n"


def test_names_alone_count_from_zero_and_values_are_ignored_on_demand(folders, tmp_path):
    made = folders(grey)
    made.names.write_text("sky\ncar,auto\n")
    given = Given(made.images, made.masks, names=made.names, ignore=(3,))
    checked = check(given)
    assert checked.pixels == [
        sum(int((c == index).sum()) for c in made.classes.values()) for index in (0, 1)
    ]
    _, records = added(given, tmp_path / "root")
    label = np.asarray(Image.open(records[0]["sem_seg_file_name"]))
    classes = made.classes["photo 0"]
    assert np.array_equal(label, np.where((classes < 0) | (classes == 2), 255, classes))


def test_more_classes_than_a_byte_holds(folders, tmp_path):
    def save(classes, path):
        Image.fromarray((values_of(classes, 65535 - 600) + 600).astype(np.uint16)).save(path)

    made = folders(save)
    made.names.write_text("".join(f"{value}:class {value}\n" for value in range(400, 700)))
    catalog, records = added(Given(made.images, made.masks, names=made.names), tmp_path / "root")
    assert catalog.dataset("street").ignore_label == 65535
    label = np.asarray(Image.open(records[0]["sem_seg_file_name"]))
    wanted = values_of(made.classes["photo 0"], 65535) + 200
    assert np.array_equal(label, np.where(made.classes["photo 0"] < 0, 65535, wanted))


def test_a_panoptic_set(folders, tmp_path):
    made = folders(grey)
    content = panoptic_json(made)
    for category in content["categories"]:
        del category["isthing"]
    made.names.write_text("4:sky\n9:car,auto\n7:road\n")
    given = Given(made.images, made.masks, write_json(made, content), made.names, things=("car",))
    catalog, records = added(given, tmp_path / "root", split="train")
    assert catalog.dataset("street").kind == "panoptic" and "street" not in catalog.benchmarks
    checked = check(given)
    for record, (stem, classes) in zip(records, made.classes.items(), strict=True):
        # classes in the order of their category ids: sky 4, road 7, car 9
        wanted = np.choose(classes + 1, [255, 0, 2, 1])
        assert np.array_equal(np.asarray(Image.open(record["sem_seg_file_name"])), wanted)
        assert np.array_equal(checked.labels_of(stem), np.where(wanted == 255, -1, wanted))
        things = {s["category_id"]: s["isthing"] for s in record["segments_info"]}
        assert things == {0: False, 1: False, 2: True}
    names = (tmp_path / "root/vocabularies/street_with_prompt_eng.txt").read_text()
    assert names == "4:sky\n7:road\n9:car,auto\n"


def test_a_set_of_instances(folders, tmp_path):
    made, root = folders(grey), tmp_path / "root"
    given = Given(made.images, annotations=write_json(made, instance_json(made)))
    catalog, records = added(given, root)
    assert catalog.benchmark("street").metric == "instance"
    checked = check(given)
    for record, (stem, classes) in zip(records, made.classes.items(), strict=True):
        wanted = np.full(classes.shape, 255)
        wanted[7:] = 0  # road 7 before car 9; the smaller car lies on top
        wanted[classes == 1] = 1
        assert np.array_equal(np.asarray(Image.open(record["sem_seg_file_name"])), wanted)
        assert np.array_equal(checked.labels_of(stem), np.where(wanted == 255, -1, wanted))
        assert {a["category_id"] for a in record["annotations"]} == {0, 1}
    assert verify_dataset("street", catalog, root, workers=1) == []


@pytest.mark.parametrize("form", ["panoptic", "instance"])
def test_the_contact_sheet_of_coco_s_forms(folders, tmp_path, monkeypatch, form):
    made = folders(grey)
    monkeypatch.chdir(tmp_path)
    content = panoptic_json(made) if form == "panoptic" else instance_json(made)
    words = ["data", "add", "street", "--images", str(made.images), "--val", "--jobs", "1"]
    words += ["--annotations", str(write_json(made, content))]
    words += ["--masks", str(made.masks)] * (form == "panoptic")
    (tmp_path / "mine.yaml").write_text("data: {root: root}")
    assert main([*words, "--params", str(ROOT / "params.yaml"), "mine.yaml"]) == 0
    assert Image.open("results/previews/street_val.png").width > 100


def test_two_splits_and_a_replaced_one(folders, tmp_path):
    made, root = folders(grey), tmp_path / "root"
    given = Given(made.images, made.masks, names=made.names)
    added(given, root, split="train")
    catalog, _ = added(given, root)
    assert list(catalog.dataset("street").splits) == ["train", "val"]
    assert catalog.dataset("street").splits["train"].name == "own_street_train"
    with pytest.raises(DataError, match="street, val: added before; choose another name, or --rep"):
        check_name("street", "val", entered(root / "own.yaml"), replace=False)
    for folder in (made.images, made.masks):
        next(folder.glob("photo 2.*")).unlink()
    stamp = root / "archives/vocabulary_street.unpacked.json"
    before = stamp.stat().st_mtime_ns
    catalog, records = added(given, root, replace=True)
    assert len(records) == 2 and catalog.dataset("street").splits["val"].count == 2
    assert catalog.dataset("street").splits["train"].count == 3
    assert stamp.stat().st_mtime_ns >= before
    made.names.write_text("0:sky\n1:car\n3:street\n")
    checked = check(given)
    with pytest.raises(DataError, match=r"names\.txt: not the names of street's split train"):
        enter(checked, name="street", split="val", root=root, own=root / "own.yaml", replace=True)


def test_the_users_files_stay_as_they_were(folders, tmp_path):
    made = folders(grey)
    files = [path for path in made.path.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o440)
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in files}
    added(Given(made.images, made.masks, names=made.names), tmp_path / "root")
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in files} == before


@pytest.mark.parametrize("name", ["coco_stuff", "A-150", "vocabulary_coco_stuff"])
def test_names_of_the_catalog_are_taken(name):
    with pytest.raises(DataError, match=f"'{name}' is a name in the catalog of the package"):
        check_name(name, "val", {}, replace=True)
    with pytest.raises(DataError, match="is no name for files; use letters"):
        check_name("../x", "val", {}, replace=False)


def test_nothing_is_half_written(folders, tmp_path, monkeypatch):
    """A mask that vanishes between check and copy leaves neither entry nor folder."""
    made, root = folders(grey), tmp_path / "root"
    checked = check(Given(made.images, made.masks, names=made.names))
    (made.masks / "photo 1.png").unlink()
    with pytest.raises(OSError):
        enter(checked, name="street", split="val", root=root, own=root / "own.yaml", replace=False)
    assert not (root / "own.yaml").exists()
    assert [p for p in (root / "own").rglob("*") if p.name != "street"] == []


def test_a_damaged_catalog_is_named(folders, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"datasets": ["street"]}))
    with pytest.raises(DataError, match=r"own\.yaml: datasets: expected a mapping"):
        entered(own)
