import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maftp.data.convert.ade20k_full import (
    canonical_table,
    class_ids,
    class_table,
    is_validation,
    parse_id_table,
    shrink_image,
    shrink_label,
    shrunk_size,
)
from maftp.errors import DataError

HERE = Path("table.py")


def test_class_ids():
    # floor(R / 10) * 256 + G: 29 // 10 = 2; the blue channel counts instances
    codes = np.array([[[0, 0, 9], [29, 3, 1], [250, 255, 0]]], np.uint8)
    assert class_ids(codes).tolist() == [[0, 515, 6655]]


def test_class_table():
    table = class_table([2978, 312, 6])
    assert table[2978] == 0 and table[312] == 1 and table[6] == 2
    assert (table == 65535).sum() == len(table) - 3 and table.dtype == np.uint16


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((1650, 2200), (512, 683)),  # 2200 / 1650 * 512 = 682.67
        ((512, 2000), (512, 2000)),
        ((513, 513), (512, 512)),
        ((2200, 1650), (683, 512)),
        ((1024, 1025), (512, 512)),  # 512.5 rounds half to even
        ((1024, 1027), (512, 514)),  # 513.5 as well
        ((300, 4000), (300, 4000)),
    ],
)
def test_shrunk_size(size, shrunk):
    assert shrunk_size(*size) == shrunk


def nearest_source(size, shrunk):
    """Return floor(d * (1 / (shrunk / size))) in doubles; integer arithmetic differs."""
    step = 1 / (shrunk / size)
    return np.minimum(np.floor(np.arange(shrunk) * step), size - 1).astype(int)


def test_labels_are_shrunk_by_the_rule_of_the_benchmark():
    rng = np.random.default_rng(0)
    table = np.arange(2**16, dtype=np.uint16)
    for height, width in rng.integers(513, 2500, (12, 2)).tolist():
        codes = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rows, columns = map(nearest_source, (height, width), shrunk_size(height, width))
        expected = class_ids(codes)[rows][:, columns]
        assert np.array_equal(shrink_label(codes, table), expected)


def test_a_small_image_keeps_its_size():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert shrink_image(image) is image
    assert shrink_label(image, class_table([6])).shape == (20, 30)


@pytest.mark.parametrize(
    ("name", "validation"), [("ADE_val_00000001.jpg", True), ("ADE_frame_val_1.jpg", False)]
)
def test_split_is_the_second_part_of_the_name(name, validation):
    assert is_validation(name) is validation


def test_table_is_read_without_running_the_file():
    records = [{"id": 6, "name": "b", "trainId": 1}, {"id": 9, "name": "a", "trainId": 0}]
    source = f"raise SystemExit\nX = {records}"
    ids = parse_id_table(source, HERE, classes=2)
    assert ids == [9, 6]
    assert canonical_table(ids) == "9,0\n6,1\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = [", "not parsed"),
        ("x = [1, 2]", "no list of 1 records"),
        ('x = [{"id": f(), "name": "a", "trainId": 0}]', "no list of 1 records"),
        ('x = [{"id": 1, "name": "a", "trainId": 1}]', "repeat or have holes"),
        (
            'x = [{"id": 1, "name": "a", "trainId": 0}, {"id": 1, "name": "b", "trainId": 1}]',
            "repeat or have holes",
        ),
    ],
)
def test_wrong_tables(source, message):
    with pytest.raises(DataError, match=message):
        parse_id_table(source, HERE, classes=max(1, source.count('"id"')))


def test_the_list_of_another_data_set_in_the_same_file_is_passed_over():
    """As in the files of released code, where Cityscapes' 19 classes may come first."""
    other = [{"id": 7 + i, "name": "road", "trainId": i} for i in range(19)]
    table = [{"id": 3 * i, "name": "wall", "trainId": i} for i in range(847)]
    source = f"A = {other}\nB = {table}"
    assert parse_id_table(source, HERE, classes=847) == [3 * i for i in range(847)]
    with pytest.raises(DataError, match=r"no list of 150 records .*found: 19, 847"):
        parse_id_table(source, HERE, classes=150)


# Part of the official table: the ids that occur in the sample image, and the index of each.
SAMPLE_INDEX = {
    312: 1, 2420: 2, 2855: 3, 2131: 4, 2377: 8,
}  # fmt: skip
SAMPLE_PIXELS = {
    1: 69054, 2: 3031, 3: 87856, 4: 11344, 8: 120281, 11: 1659, 14: 27383, 89: 537, 91: 954,
    93: 1222, 103: 15972, 108: 1321, 157: 724, 160: 1121, 245: 487, 590: 1332, 65535: 5418,
}  # fmt: skip
SAMPLE_SHA256 = "e7a3ba89e57e1cd800d6d5249648fa0747317b05944894dd2b985bca98831fa3"


def test_real_image(samples):
    """Without the official table: the published histogram tells which id has which index."""
    folder = samples / "ade20k_full/ADE20K_2021_17_01/images/ADE/training/urban/street"
    codes = np.asarray(Image.open(folder / "ADE_train_00016900_seg.png"))
    record = json.loads((folder / "ADE_train_00016900.json").read_bytes())
    named = {entry["name_ndx"] for entry in record["annotation"]["object"]}
    present = set(np.unique(class_ids(codes)).tolist())
    assert present - {0} <= named | {0}
    identity = np.arange(2**16, dtype=np.uint16)
    ids = shrink_label(codes, identity)
    assert ids.shape == (512, 683)
    counts = {int(i): int(n) for i, n in zip(*np.unique(ids, return_counts=True), strict=True)}
    for identifier, index in SAMPLE_INDEX.items():
        assert counts[identifier] == SAMPLE_PIXELS[index]
    # the remaining ids are told apart by their number of pixels, which all differ
    index_of_count = {pixels: index for index, pixels in SAMPLE_PIXELS.items() if index != 65535}
    table = np.full(2**16, 65535, np.uint16)
    for identifier, pixels in counts.items():
        if pixels in index_of_count:
            table[identifier] = index_of_count[pixels]
    label = shrink_label(codes, table)
    values, pixels = np.unique(label, return_counts=True)
    assert dict(zip(values.tolist(), pixels.tolist(), strict=True)) == SAMPLE_PIXELS
    assert hashlib.sha256(label.astype("<u2").tobytes()).hexdigest() == SAMPLE_SHA256


def test_real_image_is_resized_by_opencv(samples):
    folder = samples / "ade20k_full/ADE20K_2021_17_01/images/ADE/training/urban/street"
    image = np.asarray(Image.open(folder / "ADE_train_00016900.jpg").convert("RGB"))
    shrunk = shrink_image(image)
    assert shrunk.shape == (512, 683, 3)
    # no antialiasing: the source position of a target pixel centre, mixed from its four neighbours
    y, x = (
        (np.array([100, 400]) + 0.5) * 1650 / 512 - 0.5,
        (np.array([5, 600]) + 0.5) * 2200 / 683 - 0.5,
    )
    for row, column, (ty, tx) in zip(y, x, [(100, 5), (400, 600)], strict=True):
        top, left = int(row), int(column)
        block = image[top : top + 2, left : left + 2].astype(float)
        down, right = row - top, column - left
        mixed = (
            block[0, 0] * (1 - down) * (1 - right)
            + block[0, 1] * (1 - down) * right
            + block[1, 0] * down * (1 - right)
            + block[1, 1] * down * right
        )
        assert np.abs(mixed - shrunk[ty, tx]).max() <= 1  # OpenCV computes in 11-bit fixed point
    buffer = io.BytesIO()
    Image.fromarray(shrunk).save(buffer, format="JPEG")
    assert Image.open(buffer).size == (683, 512)
