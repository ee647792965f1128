"""Scenes of a data set's split: which things meet, how large and how crowded the pictures are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maftp.miniworld.label_spaces import LabelSpace, all_things
from maftp.miniworld.scenes import Instance, Scene, Style, render_scene
from maftp.miniworld.words import Thing, read_words

_THINGS_PER_CAST = 5


@dataclass(frozen=True)
class Split:
    """How to draw the pictures of a split.

    Attributes:
        space: classes; things and stuff come from them, every class about equally often.
        style: look; its `things` and `stuff` are replaced.
        sizes: (height, width), taken in turn.
        stray: part of the pictures with things and stuff that have no class.
        crowds: part of the pictures with a crowd of small things of one class.
    """

    space: LabelSpace
    style: Style
    sizes: Sequence[tuple[int, int]]
    stray: float = 0.0
    crowds: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A scene of a split; `crowd` says that its last instance is a crowd."""

    scene: Scene
    crowd: bool = False


def draw_split(split: Split, *, count: int, seed: Sequence[int]) -> Iterator[Picture]:
    """Draw `count` pictures; picture i depends on `seed`, the split and i, and on nothing else."""
    rng = np.random.default_rng([*seed, 0])
    for index, cast in enumerate(_casts(split.space, count=count, rng=rng)):
        roll = rng.random()
        things, stuff = cast, split.space.stuff()
        if roll < split.stray:
            strays = rng.permutation(len(all_things()))[:_THINGS_PER_CAST]
            things, stuff = [all_things()[i] for i in strays], list(read_words().stuff)
        style = replace(split.style, things=things, stuff=stuff)
        height, width = split.sizes[index % len(split.sizes)]
        crowded = roll > 1 - split.crowds
        if crowded:
            style = replace(style, things=[things[0]], count=(6, 9), size=(0.16, 0.22))
        scene = render_scene([*seed, 1, index], style, height=height, width=width)
        yield Picture(_as_crowd(scene), crowd=True) if crowded else Picture(scene)


def _casts(space: LabelSpace, *, count: int, rng: np.random.Generator) -> Iterator[list[Thing]]:
    """Deal the classes of things in shuffled rounds, a few to each picture."""
    groups = [sorted(row.members, key=str) for row in space.rows if row.isthing]
    deck: list[int] = []
    for _ in range(count):
        while len(deck) < _THINGS_PER_CAST:
            deck += rng.permutation(len(groups)).tolist()
        dealt, deck = deck[:_THINGS_PER_CAST], deck[_THINGS_PER_CAST:]
        picks = [groups[index][rng.integers(len(groups[index]))] for index in dealt]
        yield [thing for thing in picks if isinstance(thing, Thing)]


def _as_crowd(scene: Scene) -> Scene:
    """Join all instances into one."""
    if not scene.instances:
        return scene
    crowd = Instance(scene.instances[0].thing, scene.things_mask)
    return replace(scene, instances=(crowd,))
