"""Image-caption pairs: the caption tells the truth about its window."""

import numpy as np
import pytest

from maftp.miniworld.label_spaces import all_things
from maftp.miniworld.scenes import Style
from maftp.miniworld.views import ViewPool
from maftp.miniworld.words import Thing, read_words


@pytest.fixture(scope="module")
def pool():
    style = Style(things=all_things(), stuff=list(read_words().stuff))
    return ViewPool(style=style, scenes=12, seed=0, height=96, width=112)


def test_captions_name_their_subject(pool):
    words = read_words()
    rng = np.random.default_rng(0)
    subjects = set()
    for _ in range(60):
        view = pool.draw(rng, side=48)
        assert view.image.shape == (48, 48, 3) and view.image.flags.c_contiguous
        if isinstance(view.subject, Thing):
            names = words.kinds[view.subject.kind]
        else:
            stuff = words.stuff[view.subject]
            names = (*stuff.words, stuff.coarse)
        assert any(name in view.caption for name in names), view.caption
        subjects.add(type(view.subject))
    assert subjects == {Thing, str}


def test_draws_depend_on_the_generator_only(pool):
    first, second = (pool.draw(np.random.default_rng(7), side=32) for _ in range(2))
    assert first.caption == second.caption
    np.testing.assert_array_equal(first.image, second.image)
