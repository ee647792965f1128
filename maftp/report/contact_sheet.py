"""A contact sheet: many small images, and the same ones with their labels painted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maftp.report.figures import NOTHING, Colour, Layer, draw_panel

_COLUMNS = 3
_CELL = (256, 192)
_GAP = 6
_IDS_OF_A_TILE = 1 << 24


@dataclass(frozen=True)
class Tile:
    """One image of the sheet."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    labels: NDArray[np.integer]
    """(H, W) class indices, `NOTHING` where no class is to be painted."""
    segments: NDArray[np.integer]
    """(H, W) ids below 2**24 of what has a border of its own."""


def draw_contact_sheet(
    path: Path, tiles: Sequence[Tile], *, names: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Write a PNG: the images on the left, painted on the right, a legend below.

    Args:
        path: where it goes.
        tiles: in reading order.
        names: class names.
        colours: RGB 0..255 per class.

    Raises:
        ValueError: there is no tile.
    """
    if not tiles:
        raise ValueError("a contact sheet needs an image")
    image, layer = mosaic(tiles)
    draw_panel(path, image, [layer], names=names, colours=colours)


def mosaic(tiles: Sequence[Tile]) -> tuple[NDArray[np.uint8], Layer]:
    """Put the tiles, shrunk into cells of one size, beside and below each other.

    Returns:
        The images (H, W, 3) on white, and their labels, where equal ids of two tiles differ.
    """
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    size = rows * (_CELL[1] + _GAP) - _GAP, columns * (_CELL[0] + _GAP) - _GAP
    image = np.full((*size, 3), 255, np.uint8)
    labels = np.full(size, NOTHING, np.int32)
    segments = np.full(size, -1, np.int64)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        height, width = _fitting(*tile.image.shape[:2])
        top = row * (_CELL[1] + _GAP) + (_CELL[1] - height) // 2
        left = column * (_CELL[0] + _GAP) + (_CELL[0] - width) // 2
        area = slice(top, top + height), slice(left, left + width)
        picture = Image.fromarray(tile.image).resize((width, height), Image.Resampling.BOX)
        image[area] = np.asarray(picture)
        labels[area] = _shrink(tile.labels, height, width)
        segments[area] = _shrink(tile.segments, height, width) + place * _IDS_OF_A_TILE
    _, numbered = np.unique(segments, return_inverse=True)
    return image, Layer("labels", labels, numbered.reshape(size).astype(np.int32))


def _fitting(height: int, width: int) -> tuple[int, int]:
    """Return the largest (height, width) of that shape in a cell."""
    factor = min(_CELL[0] / width, _CELL[1] / height)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _shrink(values: NDArray[np.integer], height: int, width: int) -> NDArray[np.integer]:
    rows = (np.arange(height) + 0.5) * values.shape[0] / height
    columns = (np.arange(width) + 0.5) * values.shape[1] / width
    return values[rows.astype(int)[:, None], columns.astype(int)]
