"""Textures of stuff: seamless square tiles, drawn once per material and colour pair.

Each painter returns a field in 0..1 that mixes the dark and the light colour of the stuff, and
sometimes finishes the colours itself. Tiles wrap around at their edges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from maftp.miniworld.words import read_words

Field = NDArray[np.float32]
Rng = np.random.Generator
Pair = tuple[int, int]

SIDE = 256
"""Side of a tile in pixels; a period of every painter divides it."""


def noise(rng: Rng, cells: int, *, octaves: int = 4, gain: float = 0.5) -> Field:
    """Return seamless fractal noise (SIDE, SIDE), 0..1; its coarsest lattice has `cells` a side."""
    total = np.zeros((SIDE, SIDE), np.float32)
    for octave in range(octaves):
        size = min(cells * 2**octave, SIDE)
        lattice = rng.random((size, size), dtype=np.float32)
        wrapped = np.pad(lattice, 2, mode="wrap")
        step = SIDE // size
        smooth = cv2.resize(wrapped, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += gain**octave * smooth[2 * step : 2 * step + SIDE, 2 * step : 2 * step + SIDE]
    return _stretch(total)


def _stretch(field: Field) -> Field:
    low, high = np.percentile(field, (1, 99))
    return np.clip((field - low) / (high - low), 0, 1).astype(np.float32)


def _blur(field: Field, sigma: float) -> Field:
    pad = int(4 * sigma) + 1
    wrapped = np.pad(field, pad, mode="wrap")
    return cv2.GaussianBlur(wrapped, (0, 0), sigma)[pad:-pad, pad:-pad]


def _sky(rng: Rng) -> Field:
    puffs = noise(rng, 4, octaves=5)
    return np.clip((puffs - 0.5) * 3.0, 0, 1) * 0.9


def _stars(rng: Rng) -> Field:
    field = 0.5 * noise(rng, 2, octaves=3)
    spots = (rng.random((SIDE, SIDE)) > 0.9965).astype(np.float32) * rng.uniform(2, 5, (SIDE, SIDE))
    return field + _blur(spots.astype(np.float32), 0.8) * 4


def _leaves(rng: Rng) -> Field:
    field = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(1500):
        x, y = rng.integers(0, SIDE, 2)
        tone = float(rng.uniform(0.15, 1.0))
        axes = (int(rng.integers(6, 10)), int(rng.integers(3, 5)))
        angle = float(rng.uniform(0, 180))
        for dx in (-SIDE, 0, SIDE):
            for dy in (-SIDE, 0, SIDE):
                if -12 < x + dx < SIDE + 12 and -12 < y + dy < SIDE + 12:
                    centre = (int(x + dx), int(y + dy))
                    cv2.ellipse(field, centre, axes, angle, 0, 360, tone, -1, cv2.LINE_AA)
    return np.clip(0.75 * field + 0.25 * noise(rng, 4), 0, 1)


def _waves(rng: Rng) -> Field:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    bend = 14 * noise(rng, 2, octaves=2) + 3 * np.sin(x * (2 * np.pi * 4 / SIDE))
    crest = 0.5 + 0.5 * np.sin((y + bend) * (2 * np.pi * 12 / SIDE))
    return np.clip(0.85 * crest**3 * (0.35 + noise(rng, 8)) + 0.15 * noise(rng, 2), 0, 1)


def _rock(rng: Rng) -> Field:
    ridges = 1 - 2 * np.abs(noise(rng, 4, octaves=5) - 0.5)
    lit = np.roll(ridges, 2, 1) - ridges
    return _stretch(ridges + 4 * lit)


def _grass(rng: Rng) -> Field:
    field = 0.6 * noise(rng, 4, octaves=3)
    for _ in range(2600):
        x, y = rng.integers(0, SIDE, 2)
        lean, height = rng.normal(0, 2.5), rng.uniform(7, 13)
        tone = float(rng.uniform(0.0, 1.1))
        tip = (int((x + lean) * 8), int((y - height) * 8))
        cv2.line(field, (int(x) * 8, int(y) * 8), tip, tone, 1, cv2.LINE_AA, 3)
    return np.clip(field, 0, 1)


def _grains(rng: Rng) -> Field:
    speckle = rng.random((SIDE, SIDE), dtype=np.float32)
    return _stretch(0.55 * noise(rng, 4) + 0.5 * _blur(speckle, 0.9))


def _snow(rng: Rng) -> Field:
    drifts = noise(rng, 2, octaves=3)
    glints = (rng.random((SIDE, SIDE)) > 0.992).astype(np.float32)
    return np.clip(0.25 + 0.75 * drifts + 1.2 * _blur(glints, 0.7), 0, 1)


def _pebbles(rng: Rng) -> Field:
    field = np.full((SIDE, SIDE), -0.25, np.float32)
    step = 16
    for row in range(SIDE // step):
        for column in range(SIDE // step):
            x, y = (np.array([column, row]) + 0.5 + rng.uniform(-0.2, 0.2, 2)) * step
            radii = rng.uniform(5.5, 8.0, 2).astype(int)
            tone, angle = float(rng.uniform(0.25, 1.0)), float(rng.uniform(0, 180))
            for dx in (-SIDE, 0, SIDE):
                for dy in (-SIDE, 0, SIDE):
                    centre = (int(x + dx), int(y + dy))
                    _pebble(field, centre, (int(radii[0]), int(radii[1])), angle, tone)
    return np.clip(field, -0.25, 1)


def _pebble(
    field: Field, centre: tuple[int, int], axes: tuple[int, int], angle: float, tone: float
) -> None:
    cv2.ellipse(field, centre, axes, angle, 0, 360, tone * 0.7, -1, cv2.LINE_AA)
    top = (centre[0] - 1, centre[1] - 2)
    inner = (max(axes[0] - 3, 1), max(axes[1] - 3, 1))
    cv2.ellipse(field, top, inner, angle, 0, 360, tone, -1, cv2.LINE_AA)


def _road(rng: Rng) -> Field:
    speckle = rng.random((SIDE, SIDE), dtype=np.float32)
    field = 0.3 * noise(rng, 2) + 0.7 * _stretch(_blur(speckle, 0.6))
    for left in (28, 156):
        field[:72, left : left + 9] = 4.6
        field[128:200, left : left + 9] = 4.6
    return field


def _courses(rng: Rng, *, height: int, width: int, joint: int, shift: int) -> tuple[Field, Field]:
    """Return the tone of each brick and 1 on the joints, for courses shifted against each other."""
    tone = np.zeros((SIDE, SIDE), np.float32)
    for row in range(SIDE // height):
        for column in range(SIDE // width):
            left = column * width + (row % 2) * shift
            columns = np.arange(left, left + width) % SIDE
            tone[row * height : (row + 1) * height, columns] = rng.uniform(0.1, 0.95)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    x = (x - (y // height % 2) * shift) % width
    joints = ((y % height < joint) | (x < joint)).astype(np.float32)
    return tone, joints


def _bricks(rng: Rng) -> Field:
    tone, joints = _courses(rng, height=16, width=32, joint=2, shift=16)
    field = 0.75 * tone + 0.25 * noise(rng, 16)
    edge = _blur(joints, 0.7)
    return field * (1 - edge) + edge * -0.55


def _planks(rng: Rng) -> Field:
    tone, joints = _courses(rng, height=32, width=128, joint=1, shift=64)
    grain = cv2.resize(noise(rng, 16), (SIDE * 4, SIDE), interpolation=cv2.INTER_LINEAR)[:, :SIDE]
    return (0.55 * tone + 0.45 * grain) * (1 - joints) + joints * -0.6


def _tiles(rng: Rng) -> Field:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    checks = ((x // 32 + y // 32) % 2).astype(np.float32)
    joints = ((x % 32 < 2) | (y % 32 < 2)).astype(np.float32)
    return (0.94 * checks + 0.06 * noise(rng, 8)) * (1 - joints) + joints * 0.55


def _wallpaper(rng: Rng) -> Field:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    bands = 0.62 + 0.2 * np.sign(np.sin(x * (2 * np.pi * 8 / SIDE)))
    field = bands.astype(np.float32)
    for row in range(8):
        for column in range(8):
            cx, cy = column * 32 + 16 * (row % 2) + 8, row * 32 + 16
            for turn in range(5):
                angle = 2 * np.pi * turn / 5 - np.pi / 2
                petal = (int(cx + 5 * np.cos(angle)) % SIDE, int(cy + 5 * np.sin(angle)))
                cv2.circle(field, petal, 3, 0.0, -1, cv2.LINE_AA)
            cv2.circle(field, (cx % SIDE, cy), 2, 1.0, -1, cv2.LINE_AA)
    return field


def _carpet(rng: Rng) -> Field:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    folded = np.abs((x % 64) - 32) + np.abs((y % 64) - 32)
    rings = (np.floor(folded / 8) % 3 == 1).astype(np.float32)
    weave = 0.16 * ((x.astype(int) + y.astype(int)) % 4 < 2)
    return np.clip(0.8 * _blur(rings, 0.6) + weave + 0.08 * noise(rng, 8), 0, 1).astype(np.float32)


PAINTERS: dict[str, Callable[[Rng], Field]] = {
    "sky": _sky,
    "stars": _stars,
    "leaves": _leaves,
    "waves": _waves,
    "rock": _rock,
    "grass": _grass,
    "grains": _grains,
    "snow": _snow,
    "pebbles": _pebbles,
    "road": _road,
    "bricks": _bricks,
    "planks": _planks,
    "tiles": _tiles,
    "wallpaper": _wallpaper,
    "carpet": _carpet,
}


@cache
def tile(name: str) -> NDArray[np.float32]:
    """Return the seamless tile (SIDE, SIDE, 3) of a stuff by name, RGB 0..1."""
    stuff = read_words().stuff[name]
    seed = int.from_bytes(name.encode(), "little") % 2**63
    field = PAINTERS[stuff.material](np.random.default_rng(seed))[..., None]
    dark, light = (np.array(end, np.float32) / 255 for end in stuff.rgb)
    return np.clip(dark + field * (light - dark), 0, 1).astype(np.float32)
