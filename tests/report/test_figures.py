"""Overlays and learning curves: what is painted where, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maftp.report.figures import NOTHING, Layer, draw_panel

NAMES = ["sky,heaven", "grass", "cat"]
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def panel(tmp_path: Path, image: np.ndarray, *layers: Layer) -> np.ndarray:
    path = tmp_path / "overlays" / "a.png"
    draw_panel(path, image, layers, names=NAMES, colours=COLOURS)
    return np.asarray(Image.open(path))


def test_columns_are_enlarged_and_painted(tmp_path: Path):
    image = np.full((60, 100, 3), 100, np.uint8)
    labels = np.full((60, 100), 2)
    labels[:30] = NOTHING
    pixels = panel(tmp_path, image, Layer("ground truth", labels), Layer("prediction", labels * 0))
    # 100 px -> factor ceil(512 / 100) = 6; three columns of 600 and four gaps of 12
    assert pixels.shape[1] == 3 * 600 + 4 * 12
    top = 26 + 12
    truth_left, prediction_left = 12 + 612, 12 + 2 * 612
    np.testing.assert_array_equal(pixels[top + 50, 12 + 50], [100, 100, 100])
    np.testing.assert_array_equal(pixels[top + 50, truth_left + 50], [100, 100, 100])
    # 0.4 x 100 + 0.6 x colour: blue (0, 0, 250) -> 40 40 190, red -> 190 40 40
    np.testing.assert_array_equal(pixels[top + 300, truth_left + 50], [40, 40, 190])
    np.testing.assert_array_equal(pixels[top + 50, prediction_left + 50], [190, 40, 40])
    np.testing.assert_array_equal(pixels[top + 180, truth_left + 50], [255, 255, 255])  # border
    np.testing.assert_array_equal(pixels[-1, -1], [255, 255, 255])


def test_legend_shows_the_classes_that_are_painted(tmp_path: Path):
    image = np.zeros((10, 600, 3), np.uint8)
    labels = np.zeros((10, 600), int)
    labels[:, 400:] = 1
    pixels = panel(tmp_path, image, Layer("prediction", labels))
    legend = pixels[26 + 12 + 10 :].reshape(-1, 3)
    swatches = {tuple(colour) for colour in np.unique(legend, axis=0).tolist()}
    assert COLOURS[0] in swatches and COLOURS[1] in swatches
    assert COLOURS[2] not in swatches


def test_borders_of_segments_of_one_class(tmp_path: Path):
    image = np.full((60, 600, 3), 100, np.uint8)
    labels = np.zeros((60, 600), int)
    segments = np.ones((60, 600), int)
    segments[:, 300:] = 2
    pixels = panel(tmp_path, image, Layer("prediction", labels, segments))
    row = pixels[26 + 12 + 5, 24 + 600 :]
    np.testing.assert_array_equal(row[299:301], 255)
    np.testing.assert_array_equal(row[298], [190, 40, 40])


def test_wide_images_are_shrunk(tmp_path: Path):
    pixels = panel(
        tmp_path, np.zeros((10, 2000, 3), np.uint8), Layer("x", np.zeros((10, 2000), int))
    )
    assert pixels.shape[1] == 2 * 800 + 3 * 12


def test_same_input_gives_the_same_bytes(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    labels = np.random.default_rng(1).integers(0, 3, (30, 40))
    for name in "ab":
        draw_panel(
            tmp_path / f"{name}.png", image, [Layer("x", labels)], names=NAMES, colours=COLOURS
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_label_map_of_another_size_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="ground truth"):
        panel(tmp_path, np.zeros((4, 4, 3), np.uint8), Layer("ground truth", np.zeros((3, 4), int)))
