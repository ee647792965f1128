"""Segment pictures and write, for each: an overlay with a legend, a label map, and its regions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maftp.api import Predictor, Segmentation
from maftp.apps.pictures import (
    CutShortError,
    Picture,
    Source,
    check_own,
    check_results,
    count_pictures,
    png_note,
    read_pictures,
)
from maftp.data.images import segment_colors
from maftp.data.vocabulary import class_color
from maftp.errors import DataError, MaftpError
from maftp.files import atomic_path, write_json
from maftp.progress import track
from maftp.regions import NOTHING
from maftp.report.figures import Layer, draw_panel

logger = logging.getLogger(__name__)


def predict(
    sources: Sequence[Source],
    predictor: Predictor,
    out: Path,
    *,
    every: int = 1,
    strict: bool = False,
) -> list[Path]:
    """Segment pictures and write `NAME.overlay.png`, `NAME.labels.png` and `NAME.json` for each.

    A file of a folder that cannot be read is reported, and the others go on; so does a video that
    ends before its last frame. Only results of earlier predictions are written over.

    Args:
        sources: of `find_sources`.
        predictor: model and vocabulary.
        out: folder of the results; a video's go into a folder of its name.
        every: take every so-many-th frame of videos.
        strict: end with an error after all, when something was left out.

    Returns:
        The JSON files.

    Raises:
        DataError: a picture that was named cannot be read, or none of those that were found; or a
            file that is not a result has the name of one.
    """
    check_results(sources, out)
    written: list[Path] = []
    lacking: list[str] = []
    total = count_pictures(sources, every=every)
    for picture in track(_readable(sources, every, lacking), "segment", total):
        written.append(write_result(picture, predictor(picture.pixels), predictor, out))
    if not written:
        raise DataError("no picture could be read; see the warnings above")
    if strict and lacking:
        raise DataError(f"{lacking[0]} ({len(lacking)} such; --strict makes that an error)")
    return written


def _readable(sources: Sequence[Source], every: int, lacking: list[str]) -> Iterator[Picture]:
    """Yield pictures; note in `lacking` what could not be read."""
    for source in sources:
        try:
            yield from read_pictures(source, every=every)
        except CutShortError as error:
            lacking.append(str(error))
            logger.warning("%s", error)
        except DataError as error:
            if source.chosen:
                raise
            lacking.append(str(error))
            logger.warning("left out: %s", error)


def write_result(picture: Picture, found: Segmentation, predictor: Predictor, out: Path) -> Path:
    """Write the files of one picture; return the JSON, which is written last.

    Raises:
        DataError: a file that is not a result has the name of one of them.
        MaftpError: a score is not a finite number.
    """
    stem = out / picture.name
    check_own(stem)
    if not all(math.isfinite(region.score) for region in found.regions):
        raise MaftpError(
            f"{picture.path}: the model's scores are not finite numbers, so nothing was written;"
            " check the weights"
        )
    draw_overlay(stem.with_name(stem.name + ".overlay.png"), picture.pixels, found, predictor.names)
    save_labels(stem.with_name(stem.name + ".labels.png"), found.labels, len(predictor.names))
    if found.panoptic is not None:
        with atomic_path(stem.with_name(stem.name + ".segments.png")) as temporary:
            colours = Image.fromarray(segment_colors(found.panoptic))
            colours.save(temporary, format="PNG", pnginfo=png_note())
    record = stem.with_name(stem.name + ".json")
    height, width = found.labels.shape
    write_json(
        record,
        {
            "image": str(picture.path),
            "frame": picture.frame,
            "width": width,
            "height": height,
            **predictor.origin,
            "panoptic": found.panoptic is not None,
            "vocabulary": list(predictor.names),
            "segments": [region.as_dict() for region in found.regions],
        },
    )
    return record


def draw_overlay(
    path: Path, pixels: NDArray[np.uint8], found: Segmentation, names: Sequence[str]
) -> None:
    """Write image and overlay side by side with a legend; large pictures are shrunk."""
    layer = Layer("segmentation", found.labels, found.panoptic)
    colours = [class_color(index) for index in range(len(names))]
    draw_panel(path, pixels, [layer], names=names, colours=colours, note=png_note())


def save_labels(path: Path, labels: NDArray[np.int32], num_classes: int) -> None:
    """Write (H, W) class indices as PNG: 8 bits with 255 for nothing, 16 and 65535 if need be."""
    kind = np.uint8 if num_classes < 255 else np.uint16
    values = np.where(labels == NOTHING, np.iinfo(kind).max, labels).astype(kind)
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=png_note())
