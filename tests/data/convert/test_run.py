"""Every dataset from official-format archives to manifests, by the calls of the commands."""

import json
import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from maftp.data.annotations import read_instance_json
from maftp.data.catalog import load_catalog
from maftp.data.convert.run import CONVERTERS, convert
from maftp.data.download import fetch
from maftp.data.images import encode_png
from maftp.data.layout import archives_dir, manifest_path, stamp_path
from maftp.data.records import register
from maftp.data.unpack import unpack_source
from maftp.data.verify import verify_dataset
from maftp.errors import DataError

DATASETS = sorted(load_catalog().datasets)


def obtain(catalog, root, dataset):
    for source in catalog.datasets[dataset].sources:
        fetch(catalog.sources[source], archives_dir(root))
        unpack_source(source, catalog, root)


def prepared(overlay, root, dataset):
    catalog = load_catalog(overlay)
    obtain(catalog, root, dataset)
    return catalog


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".repairs")
    }


def read(path):
    return np.asarray(Image.open(path))


def test_every_dataset_has_a_converter():
    catalog = load_catalog()
    own = {"label_maps", "coco_instance"}  # of what `maftp data add` enters
    assert {dataset.converter for dataset in catalog.datasets.values()} == set(CONVERTERS) - own


@pytest.mark.parametrize("dataset", DATASETS)
def test_converting_twice_changes_nothing(dataset, overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, dataset)
    manifest = convert(dataset, catalog, root, workers=1)
    before = tree(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert convert(dataset, catalog, root, workers=1) == manifest
    assert tree(root) == before
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.png")} == times
    content = json.loads(manifest.read_text())
    assert content["classes"] == catalog.datasets[dataset].classes
    for split, entry in catalog.datasets[dataset].splits.items():
        assert content["splits"][split]["images"] == entry.count


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_ready_tree_needs_no_raw_labels(dataset, overlay, tmp_path):
    """Whoever has converted data points to them: nothing is made again."""
    root = tmp_path / "root"
    catalog = prepared(overlay, root, dataset)
    convert(dataset, catalog, root, workers=1)
    before = json.loads(manifest_path(root, dataset).read_text())
    shutil.rmtree(root / "manifests")
    shutil.rmtree(root / "archives")
    entry = catalog.datasets[dataset]
    raw = {path for split in entry.splits.values() for path in split.raw.values()}
    for path in raw:
        place = root / path
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    convert(dataset, catalog, root, workers=1)
    assert json.loads(manifest_path(root, dataset).read_text()) == before


@pytest.mark.parametrize(
    "dataset", ["coco_stuff", "ade20k_panoptic", "ade20k_847", "pascal_ctx_59"]
)
def test_a_deleted_or_damaged_output_alone_is_made_again(dataset, overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, dataset)
    convert(dataset, catalog, root, workers=1)
    before = tree(root)
    split = catalog.datasets[dataset].splits
    entry = split["train" if "train" in split else "val"]
    outputs = sorted((root / (entry.labels or entry.panoptic)).glob("[!.]*"))
    others = {path: path.stat().st_mtime_ns for path in outputs[1:]}
    outputs[0].unlink()
    (outputs[0].parent / f".{outputs[0].name}.99.part").write_bytes(b"left by a killed run")
    convert(dataset, catalog, root, workers=1)
    assert tree(root) == before
    assert {path: path.stat().st_mtime_ns for path in outputs[1:]} == others


def test_a_damaged_output_is_made_again(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_stuff")
    convert("coco_stuff", catalog, root, workers=1)
    before = tree(root)
    output = root / "coco/stuffthingmaps_detectron2/train2017/000000000002.png"
    output.write_bytes(output.read_bytes()[:50])
    convert("coco_stuff", catalog, root, workers=1)
    assert tree(root) == before


@pytest.mark.slow
def test_many_processes_give_the_same(overlay, tmp_path, monkeypatch):
    monkeypatch.setattr("maftp.data.convert.driver._TASKS_WORTH_A_PROCESS", 1)
    trees = []
    for workers in (1, 2):
        root = tmp_path / f"root{workers}"
        catalog = prepared(overlay, root, "ade20k_847")
        convert("ade20k_847", catalog, root, workers=workers)
        trees.append(tree(root / "manifests") | tree(root / "ade"))
    assert trees[0] == trees[1]


def test_another_version_of_the_archives_is_converted_anew(make_world, tmp_path):
    """Images of the first world must not stay beside those of the second."""
    fresh, reused = tmp_path / "fresh", tmp_path / "reused"
    first = make_world(tmp_path / "served", seed=0)
    for dataset in ("ade20k_847", "pascal_voc_20", "ade20k_panoptic"):
        convert(dataset, prepared(first, reused, dataset), reused, workers=1)
    second = make_world(tmp_path / "served", seed=1)
    for archive in archives_dir(reused).glob("[!.]*"):
        archive.unlink()  # a workflow removes outputs before their job runs
    for dataset in ("ade20k_847", "pascal_voc_20", "ade20k_panoptic"):
        for root in (fresh, reused):
            convert(dataset, prepared(second, root, dataset), root, workers=1)
    for folder in ("ade", "VOCdevkit"):
        assert tree(fresh / folder) == tree(reused / folder)


def test_images_and_labels_of_other_names_do_not_pair(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_stuff")
    maps = root / "coco/stuffthingmaps/train2017"
    os.rename(maps / "000000000001.png", maps / "000000000009.png")
    with pytest.raises(DataError, match=r"'000000000001', which .*train2017 has"):
        convert("coco_stuff", catalog, root, workers=1)
    assert not manifest_path(root, "coco_stuff").exists()


def test_a_label_without_an_image_fails(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "pascal_ctx_59")
    labels = root / "VOCdevkit/VOC2010/annotations_detectron2_ovs/pc59_val"
    labels.mkdir(parents=True)
    (labels / "2011_000001.png").write_bytes(b"of another list")
    with pytest.raises(
        DataError, match="nothing for '2011_000001'.*1 such differences in 2 images"
    ):
        convert("pascal_ctx_59", catalog, root, workers=1)
    (labels / "2011_000001.png").unlink()
    convert("pascal_ctx_59", catalog, root, workers=1)


def test_a_damaged_raw_label_is_named_and_mended(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_150")
    raw = root / "ade/ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"
    whole = raw.read_bytes()
    raw.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"ADE_val_00000002\.png: damaged or cut short"):
        convert("ade20k_150", catalog, root, workers=1)
    outputs = root / "ade/ADEChallengeData2016/annotations_detectron2/validation"
    assert sorted(path.name for path in outputs.iterdir()) == ["ADE_val_00000001.png"]
    assert not manifest_path(root, "ade20k_150").exists()
    raw.write_bytes(whole)
    convert("ade20k_150", catalog, root, workers=1)
    assert len(list(outputs.iterdir())) == 2


def test_a_label_of_another_size_than_its_image_fails(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_150")
    raw = root / "ade/ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    Image.fromarray(np.ones((14, 10), np.uint8)).save(raw)
    with pytest.raises(DataError, match=r"10 x 14 pixels, but its image .*jpg has 14 x 10"):
        convert("ade20k_150", catalog, root, workers=1)


def test_an_image_turned_by_exif_is_left_out_of_training(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_stuff")
    image = root / "coco/train2017/000000000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = Image.open(image).convert("RGB")
    pixels.save(image, exif=exif)
    manifest = json.loads(convert("coco_stuff", catalog, root, workers=1).read_text())
    train = manifest["splits"]["train"]
    assert train["turned_by_exif"] == ["000000000001"]
    assert train["unlabelled"] == ["000000000003"]
    index = (root / "manifests/coco_stuff_train.csv").read_text().splitlines()
    # upright size of the turned image: 8 wide, 12 high; neither it nor the unlabelled one is used
    rows = [line.rsplit(",", 1)[0] for line in index[1:]]
    assert rows == ["000000000001,8,12,0", "000000000002,8,12,1", "000000000003,6,6,0"]


def test_a_wrong_number_of_images_fails(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_stuff")
    stem = "000000000002"
    (root / f"coco/train2017/{stem}.jpg").unlink()
    (root / f"coco/stuffthingmaps/train2017/{stem}.png").unlink()
    with pytest.raises(DataError, match="2 images, the catalog expects 3"):
        convert("coco_stuff", catalog, root, workers=1)


def test_a_class_missing_in_the_vocabulary_fails(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_150")
    vocabulary = root / "vocabularies/ade20k_150_with_prompt_eng.txt"
    lines = vocabulary.read_text().split("\n")
    vocabulary.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="8 classes, but the catalog gives dataset ade20k_150 9"):
        convert("ade20k_150", catalog, root, workers=1)


def test_classes_without_a_pixel_must_be_the_expected_ones(overlay, tmp_path):
    text = overlay.read_text().replace("count: 2\n", "count: 2\n        absent: [1]\n")
    overlay.write_text(text)
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "pascal_voc_20")
    with pytest.raises(DataError, match="0 classes have no pixel, 1 are expected .*'bicycle'"):
        convert("pascal_voc_20", catalog, root, workers=1)


def test_a_dataset_without_its_sources_says_what_to_do(overlay, tmp_path):
    catalog = load_catalog(overlay)
    with pytest.raises(DataError, match="no such vocabulary; download it"):
        convert("coco_stuff", catalog, tmp_path, workers=1)
    with pytest.raises(
        DataError, match="dataset 'nonsense' is not in the catalog; known: coco_stuff"
    ):
        convert("nonsense", catalog, tmp_path, workers=1)


def turn(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(image) as picture:
        picture.convert("RGB").save(image, exif=exif)


CHALLENGE = "ade/ADEChallengeData2016"


def test_an_image_without_segments_is_known_from_the_json_alone(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_panoptic")
    for folder, shape in (("annotations", (10, 14)), ("annotations_instance", (10, 14, 3))):
        raw = root / CHALLENGE / folder / "validation/ADE_val_00000001.png"
        Image.fromarray(np.zeros(shape, np.uint8)).save(raw)
    convert("ade20k_panoptic", catalog, root, workers=1)
    split = catalog.dataset("ade20k_panoptic").splits["val"]
    content = json.loads((root / split.annotations).read_text())
    assert content["annotations"][0]["segments_info"] == []
    png = root / split.panoptic / "ADE_val_00000001.png"
    Image.open(png).save(png)  # as the public PNGs: without a comment
    shutil.rmtree(root / CHALLENGE / "annotations")
    shutil.rmtree(root / CHALLENGE / "annotations_instance")
    convert("ade20k_panoptic", catalog, root, workers=1)
    assert json.loads((root / split.annotations).read_text()) == content


@pytest.mark.parametrize("comment", ["{}", "[", "[{}]", '[{"id": 0}]', "[" * 9000])
def test_segments_in_a_comment_are_checked(comment, overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_panoptic")
    convert("ade20k_panoptic", catalog, root, workers=1)
    before = tree(root)
    split = catalog.dataset("ade20k_panoptic").splits["val"]
    (root / split.annotations).unlink()
    png = root / split.panoptic / "ADE_val_00000001.png"
    png.write_bytes(encode_png(read(png), comment=comment))
    convert("ade20k_panoptic", catalog, root, workers=1)  # made again from the raw labels
    assert tree(root) == before


def test_masks_of_an_image_turned_by_exif_fit_what_the_json_says(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_instance")
    turn(root / CHALLENGE / "images/validation/ADE_val_00000001.jpg")
    convert("ade20k_instance", catalog, root, workers=1)
    path = root / catalog.dataset("ade20k_instance").splits["val"].annotations
    found = read_instance_json(path)
    sizes = [(image["width"], image["height"]) for image in found.images.values()]
    assert sizes == [(14, 10), (14, 10)]  # as stored, which is what the masks fit
    index = root / "manifests/ade20k_instance_val.csv"
    assert index.read_text().splitlines()[1].startswith("ADE_val_00000001,10,14,0")
    before = tree(root)
    convert("ade20k_instance", catalog, root, workers=1)  # from the JSON
    assert tree(root) == before


def test_public_instance_annotations_are_taken(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "ade20k_instance")
    convert("ade20k_instance", catalog, root, workers=1)
    path = root / catalog.dataset("ade20k_instance").splits["val"].annotations
    content = json.loads(path.read_text())
    numbers = {image["id"]: n for n, image in enumerate(content["images"], start=1)}
    for image in content["images"]:
        image["id"] = numbers[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = numbers[annotation["image_id"]]
    for category in content["categories"]:
        del category["isthing"]
    path.write_text(json.dumps(content))
    index = root / "manifests/ade20k_instance_val.csv"
    before = index.read_bytes()
    convert("ade20k_instance", catalog, root, workers=1)
    assert index.read_bytes() == before
    register(catalog, root)
    records = DatasetCatalog.get("openvocab_ade20k_instance_val")
    assert [record["image_id"] for record in records] == [1, 2]
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[7, 8], [7, 8]]


def test_ids_that_repeat_stop_the_conversion(overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_panoptic_val")
    path = root / catalog.dataset("coco_panoptic_val").splits["val"].annotations
    content = json.loads(path.read_text())
    segments = content["annotations"][0]["segments_info"]
    segments[1]["id"] = segments[0]["id"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\.0\.segments_info\.id: 70000 occurs twice"):
        convert("coco_panoptic_val", catalog, root, workers=1)


def test_areas_that_are_not_the_pngs_are_said(overlay, tmp_path, caplog):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_panoptic_val")
    path = root / catalog.dataset("coco_panoptic_val").splits["val"].annotations
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][1]["area"] = 1
    path.write_text(json.dumps(content))
    convert("coco_panoptic_val", catalog, root, workers=1)
    assert "1 segments have other areas in" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", "\xff"])
@pytest.mark.parametrize("which", ["stamp", "manifest"])
def test_damaged_notes_of_earlier_steps_are_named(which, content, overlay, tmp_path):
    root = tmp_path / "root"
    catalog = prepared(overlay, root, "coco_panoptic_val")
    convert("coco_panoptic_val", catalog, root, workers=1)
    note = manifest_path(root, "coco_panoptic_val")
    if which == "stamp":
        note = stamp_path(root, "coco_val2017")
    note.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=rf"{note.name}: damaged .*again") as caught:
        if which == "stamp":
            convert("coco_panoptic_val", catalog, root, workers=1)
        else:
            verify_dataset("coco_panoptic_val", catalog, root, workers=1)
    assert "\n" not in str(caught.value)
    if which == "manifest":
        with pytest.raises(DataError, match="damaged"):
            register(catalog, root)
        convert("coco_panoptic_val", catalog, root, workers=1)  # what the message advises
        register(catalog, root)
