"""Own data as people have them: a few pictures of squares, with their masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = "0:sky\n1:car, auto\n3:road\n"
VALUES = {0: 0, 1: 1, 3: 2}
"""Class by value."""


@dataclass
class Folders:
    """Two folders and a list of names, and what the masks say."""

    path: Path
    classes: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def masks(self) -> Path:
        return self.path / "masks"

    @property
    def names(self) -> Path:
        return self.path / "names.txt"


def classes_of(rng) -> np.ndarray:
    """Sky above, road below, a car, and a column without a class: (12, 16)."""
    found = np.zeros((12, 16), int)
    found[7:] = 2
    left = int(rng.integers(1, 9))
    found[5:9, left : left + 5] = 1
    found[:, 15] = -1
    return found


@pytest.fixture
def folders(tmp_path) -> Callable[[Callable[[np.ndarray, Path], None]], Folders]:
    """Write three images and their masks, each mask by the function that is given."""

    def write(save: Callable[[np.ndarray, Path], None]) -> Folders:
        rng = np.random.default_rng(0)
        made = Folders(tmp_path / "given")
        made.images.mkdir(parents=True)
        made.masks.mkdir()
        made.names.write_text(NAMES)
        for number, ending in enumerate((".jpg", ".JPEG", ".png")):
            classes = classes_of(rng)
            made.classes[f"photo {number}"] = classes
            pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(made.images / f"photo {number}{ending}")
            save(classes, made.masks / f"photo {number}.png")
        return made

    return write


def values_of(classes: np.ndarray, void: int = 255) -> np.ndarray:
    by_class = {index: value for value, index in VALUES.items()} | {-1: void}
    return np.vectorize(by_class.get)(classes)


def grey(classes: np.ndarray, path: Path) -> None:
    Image.fromarray(values_of(classes).astype(np.uint8)).save(path)


def wide(classes: np.ndarray, path: Path) -> None:
    Image.fromarray(values_of(classes, 65535).astype(np.uint16)).save(path)


def palette(classes: np.ndarray, path: Path) -> None:
    image = Image.fromarray(values_of(classes).astype(np.uint8))
    image.putpalette([(37 * i + c) % 256 for i in range(256) for c in range(3)])
    image.save(path)


def grey_as_rgb(classes: np.ndarray, path: Path) -> None:
    Image.fromarray(values_of(classes).astype(np.uint8)).convert("RGB").save(path)


COLOURS = {0: (70, 130, 180), 1: (0, 0, 142), 2: (128, 64, 128), -1: (0, 0, 0)}


def coloured(classes: np.ndarray, path: Path) -> None:
    pixels = np.zeros((*classes.shape, 3), np.uint8)
    for index, colour in COLOURS.items():
        pixels[classes == index] = colour
    Image.fromarray(pixels).save(path)


def panoptic_json(made: Folders) -> dict:
    """Write the PNGs of a panoptic set and return its JSON: two segments of sky where there are."""
    annotations = []
    for number, (stem, classes) in enumerate(made.classes.items()):
        ids = np.zeros(classes.shape, int)
        segments = []
        for index, category in ((0, 4), (1, 9), (2, 7)):
            ids[classes == index] = 300 + index
            area = int((classes == index).sum())
            segments.append(
                {"id": 300 + index, "category_id": category, "iscrowd": 0, "area": area}
            )
        colours = np.stack((ids & 255, ids >> 8 & 255, ids >> 16), -1).astype(np.uint8)
        Image.fromarray(colours).save(made.masks / f"{stem}.png")
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    names = {4: ("sky", 0), 9: ("car", 1), 7: ("road", 0)}
    categories = [{"id": i, "name": n, "isthing": t} for i, (n, t) in names.items()]
    return {"images": [], "annotations": annotations, "categories": categories}


def instance_json(made: Folders) -> dict:
    """Return the JSON of instances: the road as polygon behind, the car as run lengths."""
    images, annotations = [], []
    for number, (stem, classes) in enumerate(made.classes.items()):
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": 12, "width": 16})
        car = (classes == 1).astype(np.uint8).T.ravel()
        edges = np.flatnonzero(np.diff(car)) + 1
        counts = np.diff([0, *edges, car.size]).tolist()
        area, box = int(car.sum()), [0.0, 0.0, 16.0, 12.0]
        common = {"image_id": number, "iscrowd": 0, "bbox": box}
        annotations.append(
            common
            | {"id": 2 * number, "category_id": 9, "area": area}
            | {"segmentation": {"size": [12, 16], "counts": counts}}
        )
        road = [0.0, 7.0, 16.0, 7.0, 16.0, 12.0, 0.0, 12.0]
        annotations.append(
            common | {"id": 2 * number + 1, "category_id": 7, "area": 80} | {"segmentation": [road]}
        )
    categories = [{"id": 9, "name": "car"}, {"id": 7, "name": "road"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(made: Folders, content: dict) -> Path:
    path = made.path / "truth.json"
    path.write_text(json.dumps(content))
    return path
