"""Segment pictures and write, for each: an overlay with a legend, a label map, and its regions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maftp.data.images import segment_colors
from maftp.data.resize import resize_image, resized_size
from maftp.data.vocabulary import class_color
from maftp.errors import DataError, MaftpError
from maftp.files import atomic_path, write_json
from maftp.prediction.model import Loaded
from maftp.prediction.pictures import (
    CutShortError,
    Picture,
    Source,
    count_pictures,
    read_pictures,
)
from maftp.prediction.regions import NOTHING, Region, class_regions, enlarge, segment_regions
from maftp.prediction.results import check_own, check_results, png_note
from maftp.progress import track
from maftp.report.figures import Layer, draw_panel

logger = logging.getLogger(__name__)

PANOPTIC_PIXELS = 1_500_000
"""Panoptic masks of larger pictures are computed at this size and enlarged, for memory."""


@dataclass(frozen=True)
class Found:
    """What was found in a picture of H x W pixels."""

    labels: NDArray[np.int32]
    """(H, W) classes, `NOTHING` where there is no segment."""
    regions: list[Region]
    ids: NDArray[np.int32] | None
    """(H, W) segment ids, 0 where there is none; None without panoptic output."""


class Predictor:
    """Segments pictures with one vocabulary."""

    def __init__(
        self,
        loaded: Loaded,
        names: Sequence[str],
        *,
        panoptic: bool = False,
        stuff: Sequence[int] = (),
        short_side: int | None = None,
    ) -> None:
        """Embed the vocabulary.

        Args:
            loaded: the model.
            names: class names, commas between synonyms.
            panoptic: separate segments instead of one region per class.
            stuff: classes whose segments are joined (panoptic); all others are things.
            short_side: shorter side for the network in pixels; None takes the experiment's.
        """
        size = loaded.params.input.test
        side = short_side or size.short_side
        self._short_side = side
        self._max_side = max(size.max_side, round(side * size.max_side / size.short_side))
        self.names = list(names)
        self.loaded = loaded
        self.panoptic = panoptic
        things = [index for index in range(len(names)) if index not in set(stuff)]
        loaded.model.set_test_vocabulary(self.names, things if panoptic else ())
        loaded.model.panoptic_on = panoptic
        loaded.model.text_embeddings(tuple(self.names))

    def __call__(self, pixels: NDArray[np.uint8]) -> Found:
        """Segment one image, (H, W, 3) uint8 RGB."""
        size = pixels.shape[:2]
        resized = resize_image(
            pixels, *resized_size(*size, short_side=self._short_side, max_side=self._max_side)
        )
        item = {"image": torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))}
        if self.panoptic:
            return self._panoptic(item, size)
        item |= dict(zip(("height", "width"), resized.shape[:2], strict=True))
        labels, shares = enlarge(self._run(item)["sem_seg"], size)
        return Found(labels, class_regions(labels, shares, self.names), None)

    def _panoptic(self, item: dict[str, Any], size: tuple[int, int]) -> Found:
        shrink = min(1.0, (PANOPTIC_PIXELS / (size[0] * size[1])) ** 0.5)
        item |= {"height": max(1, int(size[0] * shrink)), "width": max(1, int(size[1] * shrink))}
        result = self._run(item)
        small, segments = result["panoptic_seg"]
        ids = small.cpu().numpy()
        if ids.shape != size:
            picture = Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST)
            ids = np.asarray(picture)
        classes = {segment["id"]: segment["category_id"] for segment in segments}
        table = np.full(max(classes, default=0) + 1, NOTHING, dtype=np.int32)
        table[list(classes)] = list(classes.values())
        labels, shares = enlarge(result["sem_seg"], size, table[ids])
        return Found(labels, segment_regions(ids, shares, classes, self.names), ids)

    @torch.inference_mode()
    def _run(self, item: dict[str, Any]) -> dict[str, Any]:
        return self.loaded.model([item])[0]


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
            file that is no result has the name of one.
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


def write_result(picture: Picture, found: Found, predictor: Predictor, out: Path) -> Path:
    """Write the files of one picture; return the JSON, which is written last.

    Raises:
        DataError: a file that is no result has the name of one of them.
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
    if found.ids is not None:
        with atomic_path(stem.with_name(stem.name + ".segments.png")) as temporary:
            colours = Image.fromarray(segment_colors(found.ids))
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
            "weights": str(predictor.loaded.weights),
            "experiment": predictor.loaded.params.experiment,
            "panoptic": found.ids is not None,
            "vocabulary": predictor.names,
            "segments": [region.as_dict() for region in found.regions],
        },
    )
    return record


def draw_overlay(path: Path, pixels: NDArray[np.uint8], found: Found, names: Sequence[str]) -> None:
    """Write image and overlay side by side with a legend; large pictures are shrunk."""
    layer = Layer("segmentation", found.labels, found.ids)
    colours = [class_color(index) for index in range(len(names))]
    draw_panel(path, pixels, [layer], names=names, colours=colours, note=png_note())


def save_labels(path: Path, labels: NDArray[np.int32], num_classes: int) -> None:
    """Write (H, W) class indices as PNG: 8 bits with 255 for nothing, 16 and 65535 if need be."""
    kind = np.uint8 if num_classes < 255 else np.uint16
    values = np.where(labels == NOTHING, np.iinfo(kind).max, labels).astype(kind)
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=png_note())
