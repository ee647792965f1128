"""Label maps laid over an image.

Regions carry the number of their class in the legend, so that they can be read without telling
colours apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from maftp.files import atomic_path
from maftp.report.style import short

NOTHING = -1
"""Label of pixels that are not painted."""

_OPACITY = 0.6
_COLUMN_WIDTH = (512, 800)
_COLUMN_HEIGHT = 4096
_GAP = 12
_TEXT_SIZE = 17
_LINE_HEIGHT = 26
_LEGEND_ENTRIES = 40
_INK = (20, 20, 20)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """One label map to lay over the image."""

    title: str
    labels: NDArray[np.integer]
    """(H, W) class indices, `NOTHING` where no class is to be painted."""
    segments: NDArray[np.integer] | None = None
    """(H, W) segment ids whose borders are drawn; None draws those of the classes."""


def draw_panel(
    path: Path,
    image: NDArray[np.uint8],
    layers: Sequence[Layer],
    *,
    names: Sequence[str],
    colours: Sequence[Colour],
    note: PngInfo | None = None,
) -> None:
    """Write a PNG: the image, then every layer over it side by side, and a legend below.

    Args:
        path: where the PNG goes.
        image: (H, W, 3) RGB.
        layers: label maps of the image's size.
        names: class names; the first of comma-separated synonyms is shown.
        colours: RGB 0..255 per class.
        note: text to keep in the file.

    Raises:
        ValueError: a label map has another size than the image.
    """
    for layer in layers:
        if layer.labels.shape != image.shape[:2]:
            raise ValueError(f"{layer.title}: {layer.labels.shape} labels, image {image.shape[:2]}")
    size = _column_size(image)
    numbers = _legend_numbers(layers)
    columns = [("image", Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))]
    columns += [(layer.title, _overlay(image, layer, size, numbers, colours)) for layer in layers]
    width = len(columns) * (size[0] + _GAP) + _GAP
    legend = _legend(numbers, names, colours, width)
    top = _LINE_HEIGHT + _GAP
    panel = Image.new("RGB", (width, top + size[1] + legend.height), "white")
    draw = ImageDraw.Draw(panel)
    for index, (title, column) in enumerate(columns):
        left = _GAP + index * (size[0] + _GAP)
        draw.text((left, _GAP - 4), title, fill=_INK, font=_font())
        panel.paste(column, (left, top))
    panel.paste(legend, (0, top + size[1]))
    with atomic_path(path) as temporary:
        panel.save(temporary, format="PNG", pnginfo=note)


def _column_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Return (width, height): small images are enlarged by a whole number, wide ones shrunk."""
    height, width = image.shape[:2]
    factor: float = max(1, math.ceil(_COLUMN_WIDTH[0] / width))
    if width > _COLUMN_WIDTH[1]:
        factor = _COLUMN_WIDTH[1] / width
    factor = min(factor, max(1, _COLUMN_HEIGHT / height))  # a thin upright strip
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _legend_numbers(layers: Sequence[Layer]) -> dict[int, int]:
    """Number the classes that are painted anywhere from 1, largest area first."""
    painted = np.concatenate([layer.labels.ravel() for layer in layers])
    values, counts = np.unique(painted[painted != NOTHING], return_counts=True)
    order = np.lexsort((values, -counts))
    return {int(values[index]): place for place, index in enumerate(order, start=1)}


def _overlay(
    image: NDArray[np.uint8],
    layer: Layer,
    size: tuple[int, int],
    numbers: dict[int, int],
    colours: Sequence[Colour],
) -> Image.Image:
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    labels = _enlarge(layer.labels, size)
    segments = labels if layer.segments is None else _enlarge(layer.segments, size)
    palette = np.array([*colours, (0, 0, 0)], dtype=np.float32)  # the last row serves NOTHING
    opacity = np.where(labels == NOTHING, 0.0, _OPACITY)[..., None]
    blended = picture * (1 - opacity) + palette[labels] * opacity
    blended[_borders(segments)] = 255
    result = Image.fromarray(blended.round().astype(np.uint8))
    for centre, label in _centres(labels, segments):
        _write_number(result, centre, numbers[label])
    return result


def _enlarge(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.int32]:
    resized = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(resized)


def _borders(segments: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark both pixels at every change of segment, so that lines are two pixels wide."""
    borders = np.zeros(segments.shape, dtype=bool)
    down, right = segments[1:] != segments[:-1], segments[:, 1:] != segments[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders


def _centres(
    labels: NDArray[np.int32], segments: NDArray[np.integer]
) -> list[tuple[tuple[int, int], int]]:
    """Return (x, y) and class of the innermost pixel of every region that has room for a number."""
    centres = []
    for segment in np.unique(segments):
        mask = np.pad((segments == segment) & (labels != NOTHING), 1).astype(np.uint8)
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        count, regions = cv2.connectedComponents(mask, connectivity=4)
        for region in range(1, count):
            inside = np.where(regions == region, depth, 0)
            if inside.max() >= _TEXT_SIZE * 0.6:
                y, x = np.unravel_index(inside.argmax(), inside.shape)
                centres.append(((int(x) - 1, int(y) - 1), int(labels[y - 1, x - 1])))
    return centres


def _write_number(picture: Image.Image, centre: tuple[int, int], number: int) -> None:
    draw = ImageDraw.Draw(picture)
    style = {"anchor": "mm", "font": _font(_TEXT_SIZE - 3)}
    left, top, right, bottom = draw.textbbox(centre, str(number), **style)
    draw.rounded_rectangle((left - 3, top - 3, right + 3, bottom + 3), 4, fill="white")
    draw.text(centre, str(number), fill=_INK, **style)


def _legend(
    numbers: dict[int, int], names: Sequence[str], colours: Sequence[Colour], width: int
) -> Image.Image:
    """Draw swatch, number and name of every class, row by row on white."""
    shown = short([names[label] for label in numbers], length=28)
    entries = [
        (label, f"{place} {name}")
        for (label, place), name in zip(numbers.items(), shown, strict=True)
    ]
    hidden = len(entries) - _LEGEND_ENTRIES
    entries = entries[:_LEGEND_ENTRIES]
    cell = max((int(_font().getlength(text)) for _, text in entries), default=0) + 2 * _LINE_HEIGHT
    per_row = max(1, (width - _GAP) // cell)
    rows = math.ceil(len(entries) / per_row) + (hidden > 0)
    legend = Image.new("RGB", (width, rows * _LINE_HEIGHT + 2 * _GAP), "white")
    draw = ImageDraw.Draw(legend)
    for index, (label, text) in enumerate(entries):
        x = _GAP + index % per_row * cell
        y = _GAP + index // per_row * _LINE_HEIGHT
        swatch = (x, y + 2, x + _TEXT_SIZE, y + 2 + _TEXT_SIZE)
        draw.rectangle(swatch, fill=tuple(colours[label]), outline=_INK)
        draw.text((x + _LINE_HEIGHT, y), text, fill=_INK, font=_font())
    if hidden > 0:
        below = _GAP + (rows - 1) * _LINE_HEIGHT
        draw.text((_GAP, below), f"and {hidden} smaller", fill=_INK, font=_font())
    return legend


def _font(size: int = _TEXT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
