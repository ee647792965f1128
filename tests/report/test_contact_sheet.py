import numpy as np
import pytest
from PIL import Image

from maftp.report.contact_sheet import Tile, draw_contact_sheet, mosaic
from maftp.report.figures import NOTHING

NAMES, COLOURS = ["sky", "grass, lawn"], [(10, 20, 200), (0, 200, 0)]


def tile(height, width, shade):
    image = np.full((height, width, 3), shade, np.uint8)
    labels = np.zeros((height, width), np.int32)
    labels[height // 2 :] = 1
    labels[:, : width // 4] = NOTHING
    return Tile(image, labels, labels + 1)


def test_images_left_labels_right(tmp_path):
    path = tmp_path / "folder" / "sheet.png"
    tiles = [tile(96, 128, 100), tile(128, 64, 50), tile(30, 400, 60), tile(1, 1, 70)]
    draw_contact_sheet(path, tiles, names=NAMES, colours=COLOURS)
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    # three columns of 256 pixels and gaps of 6 make 780; two such mosaics stand side by side
    assert sheet.shape[1] == 2 * (780 + 12) + 12
    left, right = sheet[:, 12:792], sheet[:, 804:1584]
    assert (left[38 + 96, 128] == 100).all()  # middle of the first cell
    blended = 0.4 * 100 + 0.6 * np.array(COLOURS[0])
    assert np.abs(right[38 + 40, 200] - blended).max() <= 1
    assert (right[38 + 40, 30] == 100).all()  # nothing is painted on the left quarter
    assert (left[38 + 96, 256 + 6 + 5] == 255).all()  # beside the upright image of the second cell


def test_equal_ids_of_two_images_are_told_apart():
    big = np.full((192, 256), (1 << 24) - 1, np.int32)
    image, labels = np.zeros((192, 256, 3), np.uint8), np.zeros((192, 256), np.int32)
    tiles = [Tile(image, labels, big), Tile(image, labels, np.zeros_like(big))]
    _, layer = mosaic([*tiles, tiles[1]])
    ids = [set(np.unique(layer.segments[:, start : start + 256])) for start in (0, 262, 524)]
    assert [len(found) for found in ids] == [1, 1, 1] and len(set.union(*ids)) == 3
    assert not set.union(*ids) & set(np.unique(layer.segments[:, 256:262]))


def test_no_image(tmp_path):
    with pytest.raises(ValueError, match="needs an image"):
        draw_contact_sheet(tmp_path / "sheet.png", [], names=NAMES, colours=COLOURS)
