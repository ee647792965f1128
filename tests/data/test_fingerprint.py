"""What the installed libraries make of the reference pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from maftp.data.fingerprint import (
    _digest,
    decode,
    differing,
    drawn_picture,
    expected_digests,
    picture_digests,
    reference_files,
)


def test_the_pinned_versions_give_the_expected_digests():
    assert picture_digests() == expected_digests()


def test_the_files_are_what_their_names_say():
    files = {name: Image.open(io.BytesIO(data)) for name, data in reference_files().items()}
    assert {name: picture.mode for name, picture in files.items()} == {
        "JPEG 4:2:0": "RGB", "JPEG 4:4:4, progressive": "RGB", "JPEG, grey": "L",
    }  # fmt: skip
    assert files["JPEG 4:4:4, progressive"].info["progressive"]
    drawn = drawn_picture(45, 67).astype(int)
    for data in reference_files().values():
        assert decode(data).shape == drawn.shape


def test_one_grey_value_makes_another_digest():
    pixels = decode(reference_files()["JPEG 4:2:0"]).copy()
    before = _digest(pixels)
    assert _digest(pixels.astype(np.int32)) == before  # whatever the type
    pixels[3, 4, 1] ^= 1
    assert _digest(pixels) != before
    assert _digest(pixels[:, :-1]) != before


def test_a_picture_drawn_by_hand():
    # at y = 1, x = 2: red 3 + 2, green of the upper left square, blue (4 + 2) // 64
    assert drawn_picture(2, 3)[1, 2].tolist() == [5, 40, 0]


@pytest.mark.parametrize(
    ("found", "names"),
    [({"a": "1", "b": "2"}, []), ({"a": "1", "b": "3"}, ["b"]), ({"a": "1"}, ["b"])],
)
def test_what_differs(found, names):
    assert differing(found, {"a": "1", "b": "2"}) == names
