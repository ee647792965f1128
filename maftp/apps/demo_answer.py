"""What a model answers to a picture: overlay, the region under a point, its outline, files."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maftp.api import Loaded, Predictor, Segmentation
from maftp.apps.pictures import Picture
from maftp.apps.predict import write_result
from maftp.data.vocabulary import class_color
from maftp.regions import Region


@dataclass(frozen=True)
class Answer:
    """A segmented picture."""

    picture: Picture
    found: Segmentation
    predictor: Predictor

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """(H, W) `Region.id` of every pixel, 0 where there is none."""
        return self.found.labels + 1 if self.found.panoptic is None else self.found.panoptic

    def region_at(self, x: float, y: float) -> Region | None:
        """Return the region under a point of the picture, in pixels."""
        height, width = self.ids.shape
        if not (0 <= x < width and 0 <= y < height):
            return None
        key = self.ids[int(y), int(x)]
        return next((region for region in self.found.regions if region.id == key), None)

    def overlay(self) -> bytes:
        """Return a PNG of (H, W) RGBA: the classes' colours, white borders between regions."""
        colours = np.array([*map(class_color, range(len(self.found.names))), (0, 0, 0)], np.uint8)
        pixels = np.full((*self.ids.shape, 4), 255, np.uint8)
        pixels[..., :3] = colours[self.found.labels]  # the last colour serves pixels of no class
        pixels[self.ids == 0, 3] = 0
        pixels[:, 1:][self.ids[:, 1:] != self.ids[:, :-1]] = 255
        pixels[1:][self.ids[1:] != self.ids[:-1]] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return buffer.getvalue()

    def outline(self, region: Region) -> str:
        """Return the borders of a region as the path of an SVG of the picture's size."""
        # A frame of zeros, so that the border of the picture belongs to the outline.
        mask = np.pad((self.ids == region.id).astype(np.uint8), 1)
        lines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(-1, -1))
        return "".join(
            "M" + "L".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in line[:, 0]) + "Z"
            for line in lines
        )


def describe(region: Region, answer: Answer) -> str:
    """Return a region's class, score and share of the picture, for people."""
    share = region.area / answer.ids.size
    return f"{region.name} · score {region.score:.2f} · {share:.1%} of the picture"


def zip_answers(answers: Sequence[Answer]) -> bytes:
    """Return a ZIP of what `maftp predict` writes; of several models, each in a folder.

    Raises:
        MaftpError: a score is not a finite number.
    """
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(buffer, "w") as archive:
        folder = Path(name)
        for number, answer in enumerate(answers, start=1):
            out = folder / f"model{number}" if len(answers) > 1 else folder
            write_result(answer.picture, answer.found, answer.predictor, out)
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Engine:
    """A model behind the page; safe to call from several threads."""

    def __init__(self, loaded: Loaded, *, short_side: int | None = None) -> None:
        """Keep a model; `short_side` as in `Predictor`."""
        self.loaded = loaded
        self._short_side = short_side
        self._lock = threading.Lock()

    def __call__(self, picture: Picture, names: Sequence[str], *, panoptic: bool) -> Answer:
        """Segment a picture with a vocabulary."""
        with self._lock:
            predictor = self.loaded.predictor(names, panoptic=panoptic, short_side=self._short_side)
            found = predictor(picture.pixels)
        # Every visitor's last answer is kept, and the scores of many classes are large.
        return Answer(picture, replace(found, scores=found.scores.new_empty(0)), predictor)
