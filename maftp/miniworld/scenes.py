"""Procedural scenes with exact ground truth: compositional things standing on textured stuff.

A scene is a pure function of (seed, style, size). Stuff fills the picture in two or three regions
(behind, between, ground); things stand on the ground, cast soft shadows and may hide one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from maftp.miniworld.sprites import SIDE as SPRITE_SIDE
from maftp.miniworld.sprites import pattern_field, sprite
from maftp.miniworld.textures import SIDE as TILE_SIDE
from maftp.miniworld.textures import tile
from maftp.miniworld.words import Thing, read_words

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator
Box = tuple[float, float, float]
"""Of a thing: x of its middle, y of its foot, side of its sprite, in pixels."""

_UPRIGHT = ("house", "car")
"""Kinds that hardly lean."""


@dataclass(frozen=True)
class Style:
    """What a family of scenes is made of and how it looks.

    Attributes:
        things: what may stand in a scene; a scene repeats one only when they run out.
        stuff: names of what it may stand on and before.
        count: smallest and largest number of things.
        size: smallest and largest side of a thing, as parts of the picture's shorter side.
        middle: probability of a third region between background and ground.
        tint: largest change of a colour channel's gain.
        jitter: deviation of a thing's colour.
        grain: deviation of the sensor noise, of 1.
        gloom: largest darkening of a whole picture.
    """

    things: Sequence[Thing]
    stuff: Sequence[str]
    count: tuple[int, int] = (1, 4)
    size: tuple[float, float] = (0.3, 0.55)
    middle: float = 0.5
    tint: float = 0.06
    jitter: float = 0.035
    grain: float = 0.012
    gloom: float = 0.25


@dataclass(frozen=True)
class Instance:
    """A thing in a scene and the pixels of it that are visible (H, W)."""

    thing: Thing
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is true of it.

    Attributes:
        image: (H, W, 3) RGB, 0..255.
        stuff: (H, W) index into `stuff_names`, defined under things as well.
        stuff_names: the stuff regions, background first.
        instances: things from back to front.
    """

    image: NDArray[np.uint8]
    stuff: NDArray[np.uint8]
    stuff_names: tuple[str, ...]
    instances: tuple[Instance, ...] = field(default=())

    @property
    def things_mask(self) -> Mask:
        """Pixels that any thing covers (H, W)."""
        covered = np.zeros(self.stuff.shape, bool)
        for instance in self.instances:
            covered |= instance.mask
        return covered


def render_scene(seed: int | Sequence[int], style: Style, *, height: int, width: int) -> Scene:
    """Draw the scene of `seed`: the same arguments give the same pixels."""
    rng = np.random.default_rng(seed)
    names, stuff, image = _background(rng, style, height, width)
    ground_top = float(np.argmax(stuff.max(axis=1) == len(names) - 1)) / height
    instances: list[Instance] = []
    for thing, box in _layout(rng, style, height, width, ground_top):
        alpha = _place(image, rng, style, thing, box)
        mask = alpha > 0.5
        instances = [Instance(old.thing, old.mask & ~mask) for old in instances]
        instances.append(Instance(thing, mask))
    visible = tuple(instance for instance in instances if instance.mask.sum() >= 0.004 * stuff.size)
    return Scene(_finish(image, rng, style), stuff, names, visible)


def _background(
    rng: Rng, style: Style, height: int, width: int
) -> tuple[tuple[str, ...], NDArray[np.uint8], Image]:
    table = read_words().stuff
    choices = [table[name] for name in style.stuff]
    grounds = [stuff for stuff in choices if stuff.place == "ground"]
    ground = grounds[rng.integers(len(grounds))]
    fitting = [stuff for stuff in choices if stuff.scene == ground.scene]
    backs = [stuff for stuff in fitting if stuff.place == "back"]
    names = [backs[rng.integers(len(backs))].name]
    middles = [
        stuff for stuff in choices if stuff.place == "middle" and stuff.scene == ground.scene
    ]
    if middles and rng.random() < style.middle:
        names.append(middles[rng.integers(len(middles))].name)
    names.append(ground.name)
    outdoor = ground.scene == "outdoor"
    lines = _horizons(rng, len(names) - 1, height, width, bend=0.03 if outdoor else 0.0)
    rows = np.arange(height, dtype=np.float32)[:, None]
    stuff = np.zeros((height, width), np.uint8)
    image = _texture(rng, names[0], height, width, 0.0, flat=True)
    for index, line in enumerate(lines, start=1):
        cover = np.clip(rows - line[None] + 0.5, 0, 1)
        flat = index < len(names) - 1
        layer = _texture(rng, names[index], height, width, float(line.mean()), flat=flat)
        dusk = 1 - 0.22 * np.exp(-np.clip(rows - line[None], 0, None) / (0.05 * height))
        image = image * (1 - cover[..., None]) + layer * (cover * dusk)[..., None]
        stuff[cover > 0.5] = index
    return tuple(names), stuff, image


def _horizons(rng: Rng, count: int, height: int, width: int, *, bend: float) -> list[Image]:
    """Return the upper edge of each region but the first, in rows per column (W,)."""
    top = rng.uniform(0.36, 0.55)
    levels = [top] if count == 1 else [top - rng.uniform(0.14, 0.24), top]
    x = np.linspace(0, 1, width, dtype=np.float32)
    lines = []
    for level in levels:
        wave = np.zeros(width, np.float32)
        for waves in (1, 2, 3):
            amplitude = bend * rng.normal() / waves
            wave += amplitude * np.sin(2 * np.pi * (waves * x + rng.random()))
        lines.append(((level + wave) * height).astype(np.float32))
    return lines


def _texture(rng: Rng, name: str, height: int, width: int, top: float, *, flat: bool) -> Image:
    """Fill the picture with a stuff: upright when `flat`, else lying and receding towards `top`."""
    unit = 1.35 * TILE_SIDE / 256 * 128 / min(height, width) * rng.uniform(0.85, 1.2)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    if flat:
        u, v = columns * unit, rows * unit
    else:
        depth = (0.9 * height) / (rows - top + 0.9 * height)
        u = (columns - width / 2) * depth * unit * 1.5
        v = -depth * height * unit * 2.2
    u, v = u + rng.uniform(0, TILE_SIDE), v + rng.uniform(0, TILE_SIDE)
    layer = cv2.remap(tile(name), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    if read_words().stuff[name].material in ("sky", "stars"):
        haze = np.clip(rows / (0.55 * height), 0, 1)[..., None] ** 1.5
        light = np.array(read_words().stuff[name].rgb[1], np.float32) / 255
        layer = layer * (1 - 0.6 * haze) + light * (0.6 * haze)
    gain = 1 + rng.uniform(-0.07, 0.07)
    side = 1 + rng.uniform(-0.08, 0.08) * (columns[..., None] / width - 0.5)
    return np.clip(layer * gain * side, 0, 1).astype(np.float32)


def _layout(
    rng: Rng, style: Style, height: int, width: int, ground_top: float
) -> list[tuple[Thing, Box]]:
    """Choose things and their places, far ones first."""
    short = min(height, width)
    boxes: list[Box] = []
    for _ in range(int(rng.integers(style.count[0], style.count[1] + 1))):
        for _attempt in range(12):
            side = rng.uniform(*style.size) * short
            x = rng.uniform(min(0.45 * side, width / 2), max(width - 0.45 * side, width / 2))
            low = max(ground_top * height + 0.2 * side, 0.85 * side)
            y = rng.uniform(min(low, 0.98 * height), 0.98 * height)
            if all(_overlap((x, y, side), box) < 0.22 for box in boxes):
                boxes.append((x, y, side))
                break
    boxes.sort(key=lambda box: box[1])
    order = [style.things[index] for index in rng.permutation(len(style.things))]
    return [(order[index % len(order)], box) for index, box in enumerate(boxes)]


def _overlap(a: Box, b: Box) -> float:
    across = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    down = min(a[1], b[1]) - max(a[1] - a[2], b[1] - b[2])
    return max(across, 0.0) * max(down, 0.0) / min(a[2], b[2]) ** 2


def _place(
    image: Image, rng: Rng, style: Style, thing: Thing, box: tuple[float, float, float]
) -> Image:
    """Paint a thing and its shadow into `image`; return its cover (H, W), 0..1."""
    x, y, side = box
    height, width = image.shape[:2]
    drawing = sprite(thing.kind)
    shrink = side / SPRITE_SIDE
    turn = (
        np.radians(rng.normal(0, 6))
        if thing.kind not in ("house", "car")
        else np.radians(rng.normal(0, 2))
    )
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cosine, sine = np.cos(turn) * shrink, np.sin(turn) * shrink
    centre = SPRITE_SIDE / 2
    middle = y - (drawing.foot - 0.5) * side
    matrix = np.array(
        [
            [cosine * flip, -sine, x - cosine * flip * centre + sine * centre],
            [sine * flip, cosine, middle - sine * flip * centre - cosine * centre],
        ],
        np.float32,
    )
    layers = np.dstack([_coloured(rng, style, thing), drawing.alpha])
    # Blurring before shrinking keeps fine parts from turning into noise.
    if shrink < 0.75:
        layers = cv2.GaussianBlur(layers, (0, 0), 0.4 / shrink)
    warped = cv2.warpAffine(layers, matrix, (width, height), flags=cv2.INTER_LINEAR)
    alpha = np.clip((warped[..., 3] - 0.5) * 1.5 + 0.5, 0, 1)
    _shade_ground(image, x, y, side)
    colour = warped[..., :3] / np.maximum(warped[..., 3], 1e-3)[..., None]
    image *= 1 - alpha[..., None]
    image += np.clip(colour, 0, 1) * alpha[..., None]
    return alpha


def _coloured(rng: Rng, style: Style, thing: Thing) -> Image:
    """Return the sprite of `thing` in its colours (SIDE, SIDE, 3), premultiplied by its cover."""
    drawing = sprite(thing.kind)
    base = np.array(read_words().rgb[thing.colour], np.float32) / 255
    base = np.clip(base + rng.normal(0, style.jitter, 3).astype(np.float32), 0, 1)
    ink = np.full(3, 0.97, np.float32) if thing.colour != "white" else np.full(3, 0.55, np.float32)
    light = pattern_field(thing.pattern)[..., None] * 0.85
    body = base * (1 - light) + ink * light
    cover = drawing.parts[..., 3:]
    body = body * (1 - cover) + drawing.parts[..., :3] * cover
    lit = body * drawing.relief[..., None] + np.clip(drawing.relief - 1.12, 0, 1)[..., None] * 0.5
    return np.clip(lit, 0, 1).astype(np.float32) * drawing.alpha[..., None]


def _shade_ground(image: Image, x: float, y: float, side: float) -> None:
    height, width = image.shape[:2]
    rows, columns = np.ogrid[0:height, 0:width]
    across = (columns - x - 0.06 * side) / (0.46 * side)
    down = (rows - y + 0.04 * side) / (0.12 * side)
    shadow = np.exp(-((across**2 + down**2) ** 1.2)).astype(np.float32)
    image *= 1 - 0.45 * shadow[..., None]


def _finish(image: Image, rng: Rng, style: Style) -> NDArray[np.uint8]:
    """Light the whole picture: colour of the light, gloom, vignette, sensor noise."""
    height, width = image.shape[:2]
    rows, columns = np.ogrid[0:height, 0:width]
    corner = ((columns / width - 0.5) ** 2 + (rows / height - 0.5) ** 2).astype(np.float32)
    light = (1 + rng.uniform(-style.tint, style.tint, 3)) * (1 - rng.uniform(0, style.gloom))
    lit = image * light.astype(np.float32) * (1 - 0.3 * corner)[..., None]
    lit += rng.normal(0, style.grain, image.shape).astype(np.float32)
    return np.clip(lit * 255 + 0.5, 0, 255).astype(np.uint8)
