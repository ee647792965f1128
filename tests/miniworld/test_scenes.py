"""Scenes: determinism, and ground truth that is exact."""

import numpy as np
import pytest

from maftp.miniworld.label_spaces import all_things
from maftp.miniworld.scenes import Style, render_scene
from maftp.miniworld.words import Thing, read_words

EVERYTHING = Style(things=all_things(), stuff=list(read_words().stuff), count=(2, 4))


def test_same_seed_same_pixels():
    first, second = (render_scene([3, 1], EVERYTHING, height=96, width=128) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.stuff, second.stuff)
    other = render_scene([3, 2], EVERYTHING, height=96, width=128)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("seed", range(12))
def test_regions_partition_the_picture(seed):
    scene = render_scene(seed, EVERYTHING, height=96, width=128)
    assert scene.image.shape == (96, 128, 3) and scene.image.dtype == np.uint8
    assert scene.stuff.max() < len(scene.stuff_names)
    cover = sum(instance.mask.astype(int) for instance in scene.instances)
    assert np.max(cover) <= 1  # what is hidden belongs to the thing in front
    np.testing.assert_array_equal(scene.things_mask, cover == 1)
    table = read_words().stuff
    assert table[scene.stuff_names[0]].place == "back"
    assert table[scene.stuff_names[-1]].place == "ground"
    assert len({table[name].scene for name in scene.stuff_names}) == 1


def test_things_have_their_colour():
    # A plain red ball has more red than green and blue in every light the styles allow.
    style = Style(things=[Thing("ball", "red")], stuff=["snow", "blue sky"], count=(1, 1))
    scene = render_scene(0, style, height=96, width=128)
    (ball,) = scene.instances
    red, green, blue = scene.image[ball.mask].mean(axis=0)
    assert red > 1.5 * green and red > 1.5 * blue


def test_every_kind_is_big_enough_for_the_stride_32_map():
    for kind in read_words().kinds:
        style = Style(things=[Thing(kind, "blue")], stuff=["sand", "blue sky"], count=(1, 1))
        scene = render_scene(1, style, height=128, width=128)
        assert scene.instances[0].mask.sum() > 0.02 * 128 * 128, kind
