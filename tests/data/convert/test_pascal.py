import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

from maftp.data.catalog import load_catalog
from maftp.data.convert.driver import map_values
from maftp.data.convert.linking import link_images
from maftp.data.convert.pascal_context import (
    CONTEXT_59_IDS,
    _plain_label_map,
    context_59_table,
    context_459_table,
    iterate_array,
    paint_segments,
    read_label_map,
)
from maftp.data.convert.pascal_voc import listed_stems, voc_table
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.images import encode_tiff, read_label
from maftp.data.layout import archives_dir
from maftp.data.unpack import unpack_source
from maftp.errors import DataError

HERE = Path("here")


def rle(mask):
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def test_official_59_ids():
    assert len(CONTEXT_59_IDS) == 59 and list(CONTEXT_59_IDS) == sorted(set(CONTEXT_59_IDS))
    table = context_59_table(59)
    spots = {0: 255, 2: 0, 9: 1, 187: 28, 397: 49, 420: 52, 458: 58, 1: 254, 459 - 2: 254}
    assert {value: int(table[value]) for value in spots} == spots


def test_a_prefix_of_the_59():
    table = context_59_table(3)
    assert table[18] == 2 and table[19] == 254
    with pytest.raises(DataError, match="at most 59"):
        context_59_table(60)


def test_painting_overwrites_in_file_order():
    first, second = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    first[:2], second[1:] = True, True
    records = [(458, rle(first)), (2, rle(second))]
    canvas = paint_segments(3, 4, records, HERE)
    assert canvas.tolist() == [[458] * 4, [2] * 4, [2] * 4]
    assert paint_segments(3, 4, records[::-1], HERE).tolist() == [[458] * 4, [458] * 4, [2] * 4]
    label = map_values(canvas, context_59_table(59), HERE, refused=254)
    assert label.dtype == np.uint8 and label[:, 0].tolist() == [58, 0, 0]


@pytest.mark.parametrize("value", [1, 3, 459, 60000])
def test_an_unknown_id_on_the_canvas_fails(value):
    canvas = np.array([[0, 2, value]], np.uint16)
    with pytest.raises(DataError, match=f"here: value {value} is not a class"):
        map_values(canvas, context_59_table(59), HERE, refused=254)


@pytest.mark.parametrize("segmentation", [[[1, 2, 3]], {"size": [4, 3], "counts": "0"}])
def test_polygons_and_other_sizes_fail(segmentation):
    with pytest.raises(DataError, match="not a run-length code of 3 x 4"):
        paint_segments(3, 4, [(2, segmentation)], HERE)


def test_459_table_and_tiff(tmp_path):
    raw = np.array([[0, 1, 256], [257, 458, 459]], np.uint16)
    label = map_values(raw, context_459_table(459), HERE, refused=65534)
    assert label.tolist() == [[65535, 0, 255], [256, 457, 458]] and label.dtype == np.uint16
    path = tmp_path / "label.tif"
    path.write_bytes(encode_tiff(label))
    with Image.open(path) as image:
        assert image.mode == "I;16" and image.n_frames == 1
        assert image.info.get("compression", "raw") == "raw"
    assert np.array_equal(read_label(path), label)
    with pytest.raises(DataError, match="value 460"):
        map_values(raw + 1, context_459_table(459), HERE, refused=65534)


def test_label_map_files(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"LabelMap": np.array([[1, 459]], np.uint16)}, do_compression=True)
    assert read_label_map(path).tolist() == [[1, 459]]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 20])
    with pytest.raises(DataError, match=r"a\.mat: damaged or cut short"):
        read_label_map(path)
    scipy.io.savemat(path, {"Other": np.zeros((1, 2), np.uint16)})
    with pytest.raises(DataError, match="LabelMap is missing"):
        read_label_map(path)
    scipy.io.savemat(path, {"LabelMap": np.zeros((1, 2), np.uint8)})
    with pytest.raises(DataError, match="LabelMap is uint8"):
        read_label_map(path)
    with pytest.raises(DataError, match="no such label map"):
        read_label_map(tmp_path / "b.mat")


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_are_read_one_element_at_a_time(indent, tmp_path):
    path = tmp_path / "file.json"
    content = {
        "info": {"images": [1]},
        "empty": [],
        "count": 3,
        "other": [{"images": 5}],
        "images": [{"a": "]"}, 2, [3]],
        "last": "x",
    }
    path.write_text(json.dumps(content, indent=indent))
    assert list(iterate_array(path, "images")) == [{"a": "]"}, 2, [3]]
    assert list(iterate_array(path, "nothing")) == []
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=r"file\.json: damaged or cut short"):
        list(iterate_array(path, "images"))
    path.write_text("")
    with pytest.raises(DataError, match=r"file\.json: damaged"):
        list(iterate_array(path, "images"))


def test_voc_tables():
    raw = np.array([[0, 1, 20, 255]], np.uint8)
    twenty = map_values(raw, voc_table(20, background=False), HERE, refused=254)
    assert twenty.tolist() == [[255, 0, 19, 255]]
    with_background = map_values(raw, voc_table(21, background=True), HERE, refused=254)
    assert with_background.tolist() == [[0, 1, 20, 255]]
    with pytest.raises(DataError, match="value 21"):
        map_values(raw + 1, voc_table(20, background=False), HERE, refused=254)


def test_palette_images_give_their_indices(tmp_path):
    indices = np.array([[0, 5, 255]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    image.save(tmp_path / "label.png")
    assert np.array_equal(read_label(tmp_path / "label.png"), indices)
    image.convert("RGB").save(tmp_path / "label.png")
    with pytest.raises(DataError, match="label map of mode RGB"):
        read_label(tmp_path / "label.png")


def test_lists_of_images(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("2007_2\n2007_1\n")
    assert listed_stems(path) == ["2007_1", "2007_2"]
    path.write_text("2007_1\n2007_1\n")
    with pytest.raises(DataError, match="listed twice"):
        listed_stems(path)
    with pytest.raises(DataError, match="not readable"):
        listed_stems(tmp_path / "none.txt")


def test_linked_images_follow_the_list(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for stem in ("a", "b", "c"):
        (source / f"{stem}.jpg").write_text(stem)
    (target / "own.jpg").write_text("the user's")

    def link(*stems):
        link_images({stem: source / f"{stem}.jpg" for stem in stems}, target)

    link("a", "b")
    (source / "b.jpg").unlink()
    (source / "b.jpg").write_text("another b")
    link("b", "c")
    images = {path.name: path.read_text() for path in target.glob("[!.]*")}
    assert images == {"b.jpg": "another b", "c.jpg": "c", "own.jpg": "the user's"}
    with pytest.raises(DataError, match=r"d\.jpg: no such image"):
        link("d")


def forms(label):
    """The release's form of a .mat file, and others that programs write."""
    plain = {"LabelMap": label}
    yield plain, {"do_compression": True}
    yield plain, {"do_compression": False}
    yield {"A": label[:1], **plain}, {"do_compression": True}
    yield {**plain, "Z": label[:1]}, {"do_compression": True}
    yield {"LabelMap": np.asfortranarray(label)}, {"do_compression": True}


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (375, 500), (500, 333)])
def test_the_fast_reader_gives_what_scipy_gives(shape, tmp_path):
    label = np.random.default_rng(shape).integers(0, 460, shape).astype(np.uint16)
    path = tmp_path / "a.mat"
    fast = []
    for variables, options in forms(label):
        scipy.io.savemat(path, variables, **options)
        found = read_label_map(path)
        assert found.dtype == np.uint16 and found.flags.c_contiguous
        assert np.array_equal(found, scipy.io.loadmat(path)["LabelMap"])
        fast.append(_plain_label_map(path.read_bytes()) is not None)
    if label.size > 2:  # smaller ones have a form of their own
        assert fast == [True, False, False, False, True]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float64, np.complex128])
def test_other_types_are_left_to_scipy_and_refused(kind, tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"LabelMap": np.ones((3, 4), kind)}, do_compression=True)
    assert _plain_label_map((tmp_path / "a.mat").read_bytes()) is None
    with pytest.raises(DataError, match="expected uint16"):
        read_label_map(tmp_path / "a.mat")


def test_59_classes_out_of_the_459(overlay, tmp_path):
    """The ids of the 59 are theirs among the 459; what else is annotated has no class."""
    root, catalog = tmp_path / "root", load_catalog(overlay)
    for source in catalog.dataset("pascal_ctx_59_labelmap").sources:
        fetch(catalog.source(source), archives_dir(root))
        unpack_source(source, catalog, root)
    maps = root / "VOCdevkit/VOC2010/trainval"
    raw = np.zeros((9, 11), np.uint16)
    raw[:3], raw[3:5], raw[5:7], raw[7:] = 2, 18, 459, 1
    scipy.io.savemat(maps / "2008_000001.mat", {"LabelMap": raw}, do_compression=True)
    convert("pascal_ctx_59_labelmap", catalog, root, workers=1)
    made = root / "VOCdevkit/VOC2010/annotations_detectron2_ovs/pc59_labelmap_val"
    assert [path.stem for path in sorted(made.iterdir())] == ["2008_000001", "2008_000002"]
    label = read_label(made / "2008_000001.png")
    assert label[:, 0].tolist() == [0] * 3 + [2] * 2 + [255] * 4
    raw[0] = 460
    scipy.io.savemat(maps / "2008_000001.mat", {"LabelMap": raw}, do_compression=True)
    (made / "2008_000001.png").unlink()
    with pytest.raises(DataError, match=r"2008_000001\.mat: value 460 is not a class"):
        convert("pascal_ctx_59_labelmap", catalog, root, workers=1)
