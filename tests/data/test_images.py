import numpy as np
import pytest
from PIL import Image

from maftp.data.images import (
    encode_png,
    encode_tiff,
    image_size,
    read_comment,
    read_label,
    read_rgb,
    write_bytes,
)
from maftp.errors import DataError


def test_labels_come_back_as_written(tmp_path):
    small = np.arange(256, dtype=np.uint8).reshape(16, 16)
    large = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    colors = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    write_bytes(tmp_path / "a.png", encode_png(small))
    write_bytes(tmp_path / "b.tif", encode_tiff(large))
    write_bytes(tmp_path / "c.png", encode_png(colors, comment='{"a": 1}'))
    assert np.array_equal(read_label(tmp_path / "a.png"), small)
    assert np.array_equal(read_label(tmp_path / "b.tif"), large)
    assert read_label(tmp_path / "b.tif").dtype == np.uint16
    assert np.array_equal(read_label(tmp_path / "c.png", modes=("RGB",)), colors)
    assert read_comment(tmp_path / "c.png") == '{"a": 1}'
    assert read_comment(tmp_path / "a.png") is None


def test_grey_and_four_colour_photographs_become_rgb(tmp_path):
    for mode in ("L", "CMYK", "RGBA", "P"):
        path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
        Image.new(mode, (7, 5), 3 if mode in ("L", "P") else (1, 2, 3, 4)).save(path)
        assert read_rgb(path, oriented=True).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("orientation", "sideways"), [(1, False), (3, False), (6, True), (8, True)]
)
def test_orientation(orientation, sideways, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (7, 5)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (7, 5, sideways)
    assert read_rgb(tmp_path / "a.jpg", oriented=False).shape == (5, 7, 3)
    upright = (7, 5, 3) if sideways else (5, 7, 3)
    assert read_rgb(tmp_path / "a.jpg", oriented=True).shape == upright


@pytest.mark.parametrize("part", [0, 10, 60, 200])
def test_files_cut_short_are_named(part, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    for path, data in (
        (tmp_path / "a.png", encode_png(noise)),
        (tmp_path / "b.tif", encode_tiff(noise.astype(np.uint16))),
    ):
        path.write_bytes(data[:part])
        with pytest.raises(DataError, match=rf"{path.name}: damaged or cut short"):
            read_label(path)
        with pytest.raises(DataError, match=path.name):
            read_rgb(path, oriented=True)


def test_a_damaged_byte_is_found(tmp_path):
    data = bytearray(
        encode_png(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    )
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.png: damaged"):
        read_label(tmp_path / "a.png")


def test_missing_files(tmp_path):
    for read in (read_label, image_size):
        with pytest.raises(DataError, match=r"none\.png: no such"):
            read(tmp_path / "none.png")


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_bytes(tmp_path / "folder", b"cannot replace a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
