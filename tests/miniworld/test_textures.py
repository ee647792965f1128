"""Textures: seamless, full of contrast where they should be, and unlike one another."""

import numpy as np
import pytest

from maftp.miniworld.textures import PAINTERS, SIDE, noise, tile
from maftp.miniworld.words import read_words


@pytest.mark.parametrize("name", list(read_words().stuff))
def test_tiles_are_pictures(name):
    picture = tile(name)
    assert picture.shape == (SIDE, SIDE, 3)
    assert 0 <= picture.min() and picture.max() <= 1
    assert picture.std() > 0.005


def test_noise_wraps_around():
    # The step over the seam is no larger than steps inside: interpolation knows no edge.
    field = noise(np.random.default_rng(0), 4, octaves=2)
    inside = np.abs(np.diff(field, axis=1)).max()
    assert np.abs(field[:, 0] - field[:, -1]).max() <= inside


def test_every_material_has_a_painter():
    assert {stuff.material for stuff in read_words().stuff.values()} == set(PAINTERS)
