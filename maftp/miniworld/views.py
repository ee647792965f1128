"""Image-caption pairs for the miniature CLIP: windows of scenes, and sentences about them.

The scenes are those the segmentation data are made of, and a window keeps their scale, so that what
CLIP learns from whole pictures also holds in the parts of a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from maftp.miniworld.scenes import Scene, Style, render_scene
from maftp.miniworld.words import Thing, read_words, sentences
from maftp.progress import track

Rng = np.random.Generator

_THING_SHARE = 0.7
_CAPTION_AREA = 0.12
_STUFF_SIDE = 80
"""Most pixels that a window on stuff aims at; larger ones would show more than the stuff."""
_ZOOM = (0.7, 1.35)
"""Range of a window's size against that of the view it becomes."""


@dataclass(frozen=True)
class View:
    """A square window of a scene, (side, side, 3) RGB 0..255, and its caption.

    Attributes:
        subject: the thing or the name of the stuff the window was chosen for.
    """

    image: NDArray[np.uint8]
    caption: str
    subject: Thing | str


@dataclass(frozen=True)
class _Pooled:
    image: NDArray[np.uint8]
    regions: NDArray[np.uint8]
    """(H, W): index of the stuff, or the number of stuff names plus the index of the thing."""
    labels: tuple[Thing | str, ...]


class ViewPool:
    """Scenes drawn once, from which windows are cut without end."""

    def __init__(
        self, *, style: Style, scenes: int, seed: int, height: int = 128, width: int = 144
    ) -> None:
        """Draw `scenes` scenes of `height` x `width` pixels."""
        self._scenes = [
            _pooled(render_scene((seed, index), style, height=height, width=width))
            for index in track(range(scenes), "Drawing scenes")
        ]

    def draw(self, rng: Rng, *, side: int) -> View:
        """Cut a window out of a random scene and caption it."""
        scene = self._scenes[rng.integers(len(self._scenes))]
        num_stuff = sum(isinstance(label, str) for label in scene.labels)
        present = np.unique(scene.regions)
        things = present[present >= num_stuff]
        is_thing = len(things) > 0 and rng.random() < _THING_SHARE
        choices = things if is_thing else present[present < num_stuff]
        subject = int(choices[rng.integers(len(choices))])
        mask = scene.regions == subject
        rows, columns = _window(rng, mask, side=side, whole=bool(is_thing))
        image = cv2.resize(scene.image[rows, columns], (side, side), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            image = image[:, ::-1]
        area = np.bincount(scene.regions[rows, columns].ravel(), minlength=len(scene.labels))
        caption = _caption(rng, scene.labels, area / area.sum(), subject)
        return View(np.ascontiguousarray(image), caption, scene.labels[subject])


def _pooled(scene: Scene) -> _Pooled:
    regions = scene.stuff.copy()
    for index, instance in enumerate(scene.instances):
        regions[instance.mask] = len(scene.stuff_names) + index
    labels = (*scene.stuff_names, *(instance.thing for instance in scene.instances))
    return _Pooled(scene.image, regions, labels)


def _window(rng: Rng, mask: NDArray[np.bool_], *, side: int, whole: bool) -> tuple[slice, slice]:
    """Choose a square of about `side` pixels: around a whole thing, or somewhere on a stuff."""
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    zoom = rng.uniform(*_ZOOM)
    if whole:
        length = side * zoom
        extent = max(np.ptp(ys), np.ptp(xs)) + 1
        length = max(length, extent)
        slack = 0.5 * (length - extent) + 0.08 * extent
        y = (ys.min() + ys.max()) / 2 + rng.uniform(-slack, slack)
        x = (xs.min() + xs.max()) / 2 + rng.uniform(-slack, slack)
    else:
        length = min(side, _STUFF_SIDE) * zoom
        pick = rng.integers(len(ys))
        y, x = float(ys[pick]), float(xs[pick])
    pixels = int(np.clip(length, 24, min(height, width)))
    top = int(np.clip(y - pixels / 2, 0, height - pixels))
    left = int(np.clip(x - pixels / 2, 0, width - pixels))
    return slice(top, top + pixels), slice(left, left + pixels)


def _caption(
    rng: Rng, labels: Sequence[Thing | str], area: NDArray[np.float64], subject: int
) -> str:
    """Say what covers much of a window: the subject, and sometimes what is beside or behind it."""
    table = read_words()
    others = [
        index
        for index in np.argsort(-area)
        if index != subject and area[index] > _CAPTION_AREA and rng.random() < 0.5
    ]
    name = _name(rng, labels[subject])
    if others:
        other = labels[others[0]]
        second = _name(rng, other)
        if isinstance(other, Thing):
            name = sentences().beside.format(name, second)
        else:
            grounded = table.stuff[other].place == "ground" and isinstance(labels[subject], Thing)
            name = (sentences().standing if grounded else sentences().behind).format(name, second)
    forms = sentences().forms
    return forms[rng.integers(len(forms))].format(name)


def _name(rng: Rng, label: Thing | str) -> str:
    """Name a thing or a stuff with random synonyms; parts of a thing's name go unsaid at times."""
    table = read_words()
    if isinstance(label, str):
        stuff = table.stuff[label]
        return stuff.coarse if rng.random() < 0.15 else _pick(rng, stuff.words)
    parts = [_pick(rng, table.kinds[label.kind])]
    if rng.random() < 0.8:
        parts.insert(0, _pick(rng, table.colours[label.colour]))
    if rng.random() < 0.4:
        parts.insert(0, _pick(rng, table.patterns[label.pattern]))
    return " ".join(parts)


def _pick(rng: Rng, words: Sequence[str]) -> str:
    """Take the usual word two times out of three, else a synonym."""
    return words[0] if rng.random() < 0.65 else words[rng.integers(len(words))]
