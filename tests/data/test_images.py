import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from maftp.data import images
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

CASES = Path(__file__).parent / "cases" / "pictures"


@pytest.mark.parametrize("shape", [(1, 1), (37, 11), (11, 37)])
def test_a_tiff_has_the_bytes_that_pillow_writes(shape):
    for label in np.random.default_rng(0).integers(0, 2**16, (2, *shape), dtype=np.uint16):
        buffer = io.BytesIO()
        Image.fromarray(label).save(buffer, format="TIFF")
        assert encode_tiff(label) == buffer.getvalue()


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


@pytest.mark.parametrize("name", ["exif_negative_rational.jpg", "exif_text_for_rational.jpg"])
def test_sound_pixels_with_metadata_that_cannot_be_written_back(name):
    assert image_size(CASES / name) == (64, 48, True)
    assert read_rgb(CASES / name, oriented=True).shape == (64, 48, 3)
    upright = read_rgb(CASES / name, oriented=True)
    stored = read_rgb(CASES / name, oriented=False)
    assert np.array_equal(upright, np.rot90(stored, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
def test_every_orientation_is_that_of_pillow(orientation, form, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a", format=form, exif=exif)
    with Image.open(tmp_path / "a") as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_rgb(tmp_path / "a", oriented=True), expected)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("grey16.png", "values of 16 bits"),
        ("grey12bit.png", "values of 12 bits"),
        ("int32_0_255.tif", "values of 8 bits"),
        ("float01.tif", "fractions from 0 to 1"),
    ],
)
def test_deep_grey_is_scaled_by_its_range_and_said(name, bits, caplog):
    images._said.clear()
    rgb = read_rgb(CASES / name, oriented=True)
    with Image.open(CASES / name) as image:
        raw = np.asarray(image).astype(np.float64)
    scale = {"16": 256, "12": 16, "8": 1}.get(bits.split()[2], 1 / 255)
    assert np.abs(rgb[..., 0] - raw / scale).max() <= 1
    assert len(np.unique(rgb)) > 200
    assert f"{name}: grey of {bits}, scaled to 8 bits" in caplog.text
    read_rgb(CASES / name, oriented=True)
    assert caplog.text.count("scaled") == 1  # not once more for every image of a data set


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_grey_of_any_depth_uses_all_of_8_bits(bits, dtype, tmp_path):
    values = np.linspace(0, 2**bits - 1, 64).round().astype(dtype).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.tif")
    rgb = read_rgb(tmp_path / "a.tif", oriented=True)
    assert rgb.min() == 0
    if (bits, dtype) == (1, np.float32):
        assert rgb.max() == 255
    else:  # an odd depth is taken for the next usual one
        assert rgb.max() == (2**bits - 1 if bits <= 8 else 255 if bits % 2 == 0 else 127)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 2.0**40])
def test_values_that_are_no_brightness(value, tmp_path):
    Image.fromarray(np.full((2, 2), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: grey values"):
        read_rgb(tmp_path / "a.tif", oriented=True)


@pytest.mark.parametrize("name", ["damaged.avif", "bomb.gif"])
def test_errors_of_any_decoder_name_the_file(name):
    for read in (read_label, image_size, read_comment, lambda p: read_rgb(p, oriented=True)):
        if (name, read) == ("damaged.avif", image_size):
            continue  # its header is sound
        with pytest.raises(DataError, match=name):
            read(CASES / name)


def test_a_folder_in_the_place_of_an_image(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_rgb(tmp_path, oriented=True)


def test_eps_is_no_picture(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", format="EPS")
    with pytest.raises(DataError, match=r"a\.jpg: damaged or cut short \(not recognised"):
        read_rgb(tmp_path / "a.jpg", oriented=True)


@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"compress_level": 0}, {"dpi": (9, 9)}]
)
@pytest.mark.parametrize("shape", [(1, 1), (33, 57), (480, 640)])
def test_colour_labels_are_those_of_pillow(options, shape, tmp_path):
    colors = np.random.default_rng(shape).integers(0, 256, (*shape, 3)).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(colors).save(path, **options)
    found = read_label(path, modes=("RGB",))
    assert np.array_equal(found, np.asarray(Image.open(path)))
    assert np.array_equal(found, colors)
