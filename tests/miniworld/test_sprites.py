"""Sprites: silhouettes that differ, and patterns."""

import itertools

import numpy as np
import pytest

from maftp.miniworld.sprites import SIDE, pattern_field, sprite
from maftp.miniworld.words import read_words


@pytest.mark.parametrize("kind", list(read_words().kinds))
def test_sprites_fill_their_canvas(kind):
    drawing = sprite(kind)
    assert drawing.alpha.shape == (SIDE, SIDE)
    assert 0.2 < drawing.alpha.mean() < 0.9
    assert drawing.parts[..., 3][drawing.alpha < 0.01].max(initial=0) < 0.05
    assert np.flatnonzero(drawing.alpha.max(axis=1) > 0.5)[-1] + 1 == round(drawing.foot * SIDE)


def test_silhouettes_differ():
    # Intersection over union of any two kinds stays well below 1: shape tells them apart.
    shapes = {kind: sprite(kind).alpha > 0.5 for kind in read_words().kinds}
    for a, b in itertools.combinations(shapes, 2):
        union = (shapes[a] | shapes[b]).sum()
        assert (shapes[a] & shapes[b]).sum() < 0.92 * union, (a, b)


def test_patterns():
    assert pattern_field("plain").max() == 0
    # Bands cover half of the body. Dots fade out from radius a = 0.3 - 1/14 of a cell to b = 0.3:
    # pi/3 (a^2 + ab + b^2) = 0.221 of it.
    assert abs(pattern_field("striped").mean() - 0.5) < 0.05
    assert abs(pattern_field("spotted").mean() - 0.221) < 0.02
