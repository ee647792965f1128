"""Example pictures of the page, drawn by the miniature world: nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maftp.miniworld.label_spaces import ade20k_150
from maftp.miniworld.scenes import Style
from maftp.miniworld.splits import Split, draw_split

_SEED = (2024,)
_SIZE = (192, 256)


@dataclass(frozen=True)
class Example:
    """A picture and words that fit it."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    words: str


def draw_examples(count: int) -> list[Example]:
    """Draw `count` scenes and name what stands in them."""
    style = Style(things=(), stuff=(), count=(2, 3), size=(0.4, 0.6), middle=0.5)
    split = Split(space=ade20k_150(), style=style, sizes=(_SIZE,))
    examples = []
    for picture in draw_split(split, count=count, seed=_SEED):
        scene = picture.scene
        names = [*scene.stuff_names, *(instance.thing.names()[0] for instance in scene.instances)]
        examples.append(Example(scene.image, "; ".join(dict.fromkeys(names))))
    return examples
