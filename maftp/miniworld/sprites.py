"""Things: silhouettes with their fixed parts (wheels, windows, stems) and a soft relief.

A sprite is drawn once per kind on a square canvas; colour, pattern, size and turn come later, when
a scene places it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Canvas = NDArray[np.uint8]
Point = tuple[float, float]

SIDE = 192
"""Side of a sprite's canvas in pixels; the silhouette fills it but for a small margin."""
_FINE = 4

DARK = (52, 50, 58)
CREAM = (246, 234, 208)
GLASS = (190, 222, 236)
BROWN = (112, 76, 52)
BEAK = (250, 168, 40)
SUN = (255, 206, 64)


@dataclass(frozen=True)
class Sprite:
    """One kind of thing before it is coloured.

    Attributes:
        alpha: the silhouette (SIDE, SIDE), 0..1.
        relief: light and shade (SIDE, SIDE), a factor around 1.
        parts: fixed parts (SIDE, SIDE, 4), RGB 0..1 and their cover.
        foot: lowest row of the silhouette, as a part of SIDE.
    """

    alpha: NDArray[np.float32]
    relief: NDArray[np.float32]
    parts: NDArray[np.float32]
    foot: float


class _Pen:
    """Draws a body and its parts in unit coordinates, `_FINE` times larger than they will be."""

    def __init__(self) -> None:
        side = SIDE * _FINE
        self.body: Canvas = np.zeros((side, side), np.uint8)
        self.parts: Canvas = np.zeros((side, side, 3), np.uint8)
        self.cover: Canvas = np.zeros((side, side), np.uint8)

    def polygon(self, points: list[Point], colour: tuple[int, int, int] | None = None) -> None:
        """Fill a polygon: with the body, or as a part of a fixed colour."""
        corners = np.round(np.array(points) * SIDE * _FINE).astype(np.int32)
        if colour is None:
            cv2.fillPoly(self.body, [corners], 255)
            cv2.fillPoly(self.cover, [corners], 0)
        else:
            cv2.fillPoly(self.parts, [corners], colour)
            cv2.fillPoly(self.cover, [corners], 255)

    def hole(self, centre: Point, radii: Point) -> None:
        """Cut an ellipse out of the body."""
        scale = SIDE * _FINE
        box = (
            (int(centre[0] * scale), int(centre[1] * scale)),
            (int(radii[0] * scale), int(radii[1] * scale)),
        )
        cv2.ellipse(self.body, *box, 0, 0, 360, 0, -1)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        colour: tuple[int, int, int] | None = None,
        *,
        turn: float = 0.0,
        arc: tuple[float, float] = (0.0, 360.0),
    ) -> None:
        """Fill an ellipse or a part of one; `turn`, `arc` in degrees, clockwise from the right."""
        angles = np.radians(np.linspace(arc[0], arc[1], 90))
        across, down = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
        tilt = np.radians(turn)
        x = centre[0] + across * np.cos(tilt) - down * np.sin(tilt)
        y = centre[1] + across * np.sin(tilt) + down * np.cos(tilt)
        self.polygon(list(zip(x, y, strict=True)), colour)


def _ball(pen: _Pen) -> None:
    pen.ellipse((0.5, 0.5), (0.45, 0.45))


def _star(pen: _Pen) -> None:
    angles = np.radians(-90 + 36 * np.arange(10))
    radii = np.where(np.arange(10) % 2 == 0, 0.5, 0.215)
    pen.polygon(
        [(0.5 + r * np.cos(a), 0.53 + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]
    )


def _heart(pen: _Pen) -> None:
    t = np.linspace(0, 2 * np.pi, 200)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    pen.polygon(list(zip(0.5 + x / 35, 0.47 - y / 34, strict=True)))


def _car(pen: _Pen) -> None:
    pen.polygon([(0.24, 0.5), (0.34, 0.27), (0.66, 0.27), (0.8, 0.5)])
    pen.polygon([(0.03, 0.56), (0.1, 0.47), (0.9, 0.47), (0.97, 0.55), (0.97, 0.7), (0.03, 0.7)])
    pen.polygon([(0.31, 0.48), (0.38, 0.32), (0.48, 0.32), (0.48, 0.48)], GLASS)
    pen.polygon([(0.53, 0.48), (0.53, 0.32), (0.63, 0.32), (0.72, 0.48)], GLASS)
    for x in (0.25, 0.75):
        pen.ellipse((x, 0.7), (0.115, 0.115))
        pen.ellipse((x, 0.7), (0.115, 0.115), DARK)
        pen.ellipse((x, 0.7), (0.05, 0.05), (196, 198, 204))
    pen.ellipse((0.93, 0.57), (0.03, 0.03), CREAM)


def _fish(pen: _Pen) -> None:
    pen.ellipse((0.42, 0.5), (0.39, 0.26))
    pen.polygon([(0.7, 0.5), (0.98, 0.24), (0.92, 0.5), (0.98, 0.76)])
    pen.polygon([(0.3, 0.28), (0.5, 0.1), (0.62, 0.32)])
    pen.polygon([(0.38, 0.72), (0.52, 0.88), (0.58, 0.7)])
    pen.ellipse((0.2, 0.44), (0.055, 0.055), (250, 250, 250))
    pen.ellipse((0.19, 0.44), (0.03, 0.03), DARK)


def _boat(pen: _Pen) -> None:
    pen.polygon([(0.05, 0.7), (0.95, 0.7), (0.8, 0.93), (0.2, 0.93)])
    pen.polygon([(0.47, 0.04), (0.52, 0.04), (0.52, 0.72), (0.47, 0.72)])
    pen.polygon([(0.47, 0.04), (0.52, 0.04), (0.52, 0.71), (0.47, 0.71)], BROWN)
    pen.polygon([(0.55, 0.08), (0.55, 0.64), (0.9, 0.64)])
    pen.polygon([(0.44, 0.18), (0.44, 0.64), (0.14, 0.64)])


def _house(pen: _Pen) -> None:
    pen.polygon([(0.68, 0.1), (0.79, 0.1), (0.79, 0.4), (0.68, 0.4)])
    pen.polygon([(0.68, 0.1), (0.79, 0.1), (0.79, 0.4), (0.68, 0.4)], BROWN)
    pen.polygon([(0.03, 0.47), (0.5, 0.07), (0.97, 0.47)])
    pen.polygon([(0.13, 0.44), (0.87, 0.44), (0.87, 0.95), (0.13, 0.95)])
    pen.polygon([(0.43, 0.64), (0.6, 0.64), (0.6, 0.95), (0.43, 0.95)], BROWN)
    for x in (0.2, 0.67):
        pen.polygon([(x, 0.56), (x + 0.14, 0.56), (x + 0.14, 0.7), (x, 0.7)], GLASS)


def _mushroom(pen: _Pen) -> None:
    pen.polygon([(0.38, 0.5), (0.62, 0.5), (0.68, 0.95), (0.32, 0.95)])
    pen.polygon([(0.38, 0.5), (0.62, 0.5), (0.68, 0.95), (0.32, 0.95)], CREAM)
    pen.ellipse((0.5, 0.54), (0.47, 0.46), arc=(180, 360))
    pen.ellipse((0.5, 0.54), (0.47, 0.09), arc=(0, 180))


def _cup(pen: _Pen) -> None:
    pen.ellipse((0.72, 0.5), (0.25, 0.25))
    pen.hole((0.74, 0.5), (0.14, 0.14))
    pen.polygon([(0.1, 0.16), (0.76, 0.16), (0.7, 0.86), (0.16, 0.86)])
    pen.ellipse((0.43, 0.86), (0.27, 0.09))
    pen.ellipse((0.43, 0.17), (0.33, 0.09))
    pen.ellipse((0.43, 0.17), (0.28, 0.06), DARK)


def _flower(pen: _Pen) -> None:
    for turn in range(6):
        angle = np.radians(60 * turn - 90)
        centre = (0.5 + 0.27 * np.cos(angle), 0.5 + 0.27 * np.sin(angle))
        pen.ellipse(centre, (0.21, 0.165), turn=60 * turn - 90)
    pen.ellipse((0.5, 0.5), (0.14, 0.14))
    pen.ellipse((0.5, 0.5), (0.14, 0.14), BROWN)
    pen.ellipse((0.49, 0.49), (0.09, 0.09), SUN)


def _umbrella(pen: _Pen) -> None:
    handle = [(0.475, 0.4), (0.525, 0.4), (0.525, 0.95), (0.475, 0.95)]
    hook = [(0.475, 0.9), (0.525, 0.9), (0.525, 0.97), (0.36, 0.97)]
    hook += [(0.36, 0.84), (0.405, 0.84), (0.405, 0.92)]
    for part in (handle, hook):
        pen.polygon(part)
        pen.polygon(part, DARK)
    pen.ellipse((0.5, 0.5), (0.48, 0.43), arc=(180, 360))
    for x in (0.14, 0.38, 0.62, 0.86):
        pen.ellipse((x, 0.5), (0.12, 0.06), arc=(0, 180))


def _duck(pen: _Pen) -> None:
    pen.polygon([(0.06, 0.3), (0.28, 0.24), (0.28, 0.38), (0.1, 0.36)])
    pen.polygon([(0.06, 0.3), (0.28, 0.24), (0.28, 0.38), (0.1, 0.36)], BEAK)
    pen.polygon([(0.24, 0.3), (0.44, 0.34), (0.5, 0.6), (0.24, 0.6)])
    pen.ellipse((0.34, 0.27), (0.18, 0.18))
    pen.ellipse((0.54, 0.67), (0.36, 0.24))
    pen.polygon([(0.74, 0.6), (0.98, 0.4), (0.9, 0.72)])
    pen.ellipse((0.3, 0.23), (0.035, 0.035), DARK)


_KINDS: dict[str, Callable[[_Pen], None]] = {
    "ball": _ball,
    "star": _star,
    "heart": _heart,
    "car": _car,
    "fish": _fish,
    "boat": _boat,
    "house": _house,
    "mushroom": _mushroom,
    "cup": _cup,
    "flower": _flower,
    "umbrella": _umbrella,
    "duck": _duck,
}


def _relief(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light a rounded body from the upper left: slopes of a dome raised over the silhouette."""
    inside = (alpha > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) / SIDE
    dome = cv2.GaussianBlur(np.sqrt(np.clip(depth, 0, 0.22)), (0, 0), SIDE / 40)
    slope_y, slope_x = np.gradient(dome * SIDE / 10)
    light = 1.0 + 1.5 * (slope_x * 0.6 + slope_y * 0.8)
    return np.clip(light, 0.55, 1.4).astype(np.float32)


@cache
def sprite(kind: str) -> Sprite:
    """Return the sprite of a kind of thing; drawn once per process."""
    pen = _Pen()
    _KINDS[kind](pen)
    size = (SIDE, SIDE)
    alpha = cv2.resize(pen.body, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    cover = cv2.resize(pen.cover, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    parts = cv2.resize(pen.parts, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    # Parts fade to black where they end; their colour is spread outwards so that edges keep it.
    solid = parts / np.maximum(cover, 1e-3)[..., None]
    layer = np.dstack([np.clip(solid, 0, 1), cover]).astype(np.float32)
    foot = float(np.flatnonzero(alpha.max(axis=1) > 0.5)[-1] + 1) / SIDE
    return Sprite(alpha=alpha, relief=_relief(alpha), parts=layer, foot=foot)


@cache
def pattern_field(pattern: str) -> NDArray[np.float32]:
    """Return where a pattern is light (SIDE, SIDE), 0..1: bands, dots, or nowhere for plain."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    if pattern == "striped":
        wave = np.sin((x + 0.25 * y) * 2 * np.pi * 5.5)
        return np.clip(wave * 6 + 0.5, 0, 1).astype(np.float32)
    if pattern == "spotted":
        row = np.floor(y * 6)
        across = (x * 6 + 0.5 * (row % 2)) % 1 - 0.5
        down = (y * 6) % 1 - 0.5
        return np.clip((0.3 - np.hypot(across, down)) * 14, 0, 1).astype(np.float32)
    return np.zeros((SIDE, SIDE), np.float32)
