"""The archives: byte-equal when written twice, and readable by standard libraries as documented."""

import hashlib
import io
import json
import pickletools
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from maftp.data.catalog import load_catalog
from maftp.miniworld import label_spaces
from maftp.miniworld.archives import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    write_world(out, seed=5, train_images=6, val_images=3)
    return out


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def members(path):
    """Return name to content of a zip or a tar."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}


def test_two_writes_are_equal(world, tmp_path):
    write_world(tmp_path, seed=5, train_images=6, val_images=3)
    names = sorted(path.name for path in world.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (world / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_catalog_fits(world):
    catalog = load_catalog(world / "sources.yaml")
    drawn = yaml.safe_load((world / "sources.yaml").read_text())["sources"]
    assert {file.name for file in world.iterdir()} - {"sources.yaml"} == {
        catalog.sources[name].file for name in drawn
    }
    for name in drawn:
        source = catalog.sources[name]
        data = (world / source.file).read_bytes()
        assert source.url == f"file://{world}/{source.file}", name
        assert source.digests == {"sha256": hashlib.sha256(data).hexdigest()}
        assert source.bytes == len(data) and not source.mirrors
    assert catalog.datasets["coco_stuff"].splits["train"].count == 6
    assert catalog.datasets["pascal_voc_20"].classes == 12
    assert catalog.datasets["pascal_voc_21"].classes == 13


def test_coco(world):
    images, maps = (
        members(world / "train2017.zip"),
        members(world / "stuffthingmaps_trainval2017.zip"),
    )
    panoptic = members(world / "panoptic_annotations_trainval2017.zip")
    inner = zipfile.ZipFile(io.BytesIO(panoptic["annotations/panoptic_train2017.zip"]))
    records = json.loads(panoptic["annotations/panoptic_train2017.json"])
    assert len(images) == 6 and len(records["annotations"]) == 6
    codes = {row.code for row in label_spaces.coco().rows}
    for entry in records["annotations"]:
        stem = entry["file_name"].removesuffix(".png")
        rgb = pixels(inner.read(f"panoptic_train2017/{stem}.png")).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        label = pixels(maps[f"train2017/{stem}.png"])
        assert pixels(images[f"train2017/{stem}.jpg"]).shape == (*label.shape, 3)
        assert min(label.shape) == 128
        for segment in entry["segments_info"]:
            mask = ids == segment["id"]
            assert mask.sum() == segment["area"] and segment["category_id"] in codes
            assert set(np.unique(label[mask])) == {segment["category_id"] - 1}
        assert set(np.unique(label[ids == 0])) <= {255}


def test_ade20k_challenge(world):
    files = members(world / "ADEChallengeData2016.zip")
    instances = members(world / "annotations_instance.tar")
    assert "ADEChallengeData2016/objectInfo150.txt" in files
    rows = {row.code: row for row in label_spaces.ade20k_150().rows}
    things = [code for code, row in rows.items() if row.isthing]
    labels = [name for name in files if "/annotations/validation/" in name]
    assert len(labels) == 3
    for name in labels:
        label = pixels(files[name])
        codes = pixels(
            instances[name.replace("ADEChallengeData2016/annotations", "annotations_instance")]
        )
        assert set(np.unique(label)) <= {0, *rows}
        for number in set(np.unique(codes[..., 1])) - {0}:
            mask = codes[..., 1] == number
            (category,) = np.unique(codes[mask][:, 0])
            assert set(np.unique(label[mask])) == {things[category - 1]}
        assert not codes[..., 2].any()


def test_ade20k_full(world):
    files = members(world / "ADE20K_2021_17_01.zip")
    codes = {row.code for row in label_spaces.ade20k_847().rows}
    shorter = []
    for name in (name for name in files if name.endswith(".jpg")):
        seg = pixels(files[name.replace(".jpg", "_seg.png")]).astype(int)
        assert (seg[..., 0] % 10 == 0).all()
        ids = seg[..., 0] // 10 * 256 + seg[..., 1]
        assert set(np.unique(ids)) <= codes | {0}
        record = json.loads(files[name.replace(".jpg", ".json")])["annotation"]
        assert set(np.unique(ids)) - {0} <= {item["name_ndx"] for item in record["object"]}
        assert pixels(files[name]).shape == seg.shape
        shorter.append(min(ids.shape))
    assert max(shorter) > 512  # so that the conversion has something to shrink
    assert "ADE20K_2021_17_01/objects.txt" in files
    # The index is a sound pickle that calls nothing: only strings, lists and a dict.
    index = list(pickletools.genops(files["ADE20K_2021_17_01/index_ade20k.pkl"]))
    assert {op.name for op, _, _ in index} == {"MARK", "UNICODE", "LIST", "DICT", "STOP"}
    listed = {text for _, text, _ in index if text}
    assert {name.rsplit("/", 1)[1] for name in files if name.endswith(".jpg")} <= listed


def test_voc(world):
    files = members(world / "VOCtrainval_11-May-2012.tar")
    root = "VOCdevkit/VOC2012"
    stems = files[f"{root}/ImageSets/Segmentation/val.txt"].decode().split()
    assert len(stems) == 3
    for stem in stems:
        image = Image.open(io.BytesIO(files[f"{root}/SegmentationClass/{stem}.png"]))
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]  # VOC's colour of class 1
        values = set(np.unique(np.asarray(image)))
        assert values <= {*range(13), 255} and 255 in values and values & set(range(1, 13))


def test_pascal_context(world):
    maps = members(world / "trainval.tar.gz")
    records = json.loads((world / "trainval_merged.json").read_text())
    lists = {f"annos_{name}" for name in ("segmentation", "boundary", "occlusion")}
    assert records.keys() == {"info", "images", "categories", "parts"} | lists
    val = [image for image in records["images"] if image["phase"] == "val"]
    assert len(val) == 3
    fine = {row.code for row in label_spaces.pascal_ctx_459().rows}
    coarse = {row.code: row for row in label_spaces.pascal_ctx_59().rows}
    by_code = {row.code: row for row in label_spaces.pascal_ctx_459().rows}
    assert {c["category_id"]: c["name"] for c in records["categories"]} == {
        code: row.names[0] for code, row in coarse.items()
    }
    known = {part["part_id"]: part["category_id"] for part in records["parts"]}
    for entry in records["annos_segmentation"]:
        mask = coco_mask.decode(entry["segmentation"])
        for part in entry["parts"]:
            assert known[part["part_id"]] == entry["category_id"]
            assert not (coco_mask.decode(part["segmentation"]) & ~mask).any()
    for image in records["images"]:
        size = [image["height"], image["width"]]
        for name in ("boundary", "occlusion"):
            (entry,) = (e for e in records[f"annos_{name}"] if e["image_id"] == image["image_id"])
            assert entry[name]["size"] == size and coco_mask.decode(entry[name]).any()
    assert maps["labels.txt"].decode().splitlines()[0] == "1: crimson sphere"
    for image in val:
        stem = image["file_name"].removesuffix(".jpg")
        assert image["image_id"] == int(stem.replace("_", ""))
        label = scipy.io.loadmat(io.BytesIO(maps[f"trainval/{stem}.mat"]))["LabelMap"]
        assert label.dtype == np.uint16 and set(np.unique(label)) <= fine | {0}
        canvas = np.zeros(label.shape, int)
        for entry in records["annos_segmentation"]:
            if entry["image_id"] == image["image_id"]:
                canvas[coco_mask.decode(entry["segmentation"]) > 0] = entry["category_id"]
        # Where both name something, the coarse class holds the fine one.
        for code, category in set(
            zip(label[canvas > 0].tolist(), canvas[canvas > 0].tolist(), strict=True)
        ):
            if code:
                assert by_code[code].members <= coarse[category].members
