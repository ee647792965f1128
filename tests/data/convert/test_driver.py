"""Counting and mapping pixels: the fast ways give what NumPy gives."""

from pathlib import Path

import numpy as np
import pytest

from maftp.data.convert.driver import count_values, map_values
from maftp.errors import DataError

HERE = Path("here")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (480, 640), (3, 4, 3)])
def test_counts_are_those_of_numpy(kind, shape):
    values = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    for form in (values, np.asfortranarray(values), values[::-1]):
        expected = np.bincount(form.ravel(), minlength=256)
        found = count_values(form)
        assert found[: len(expected)].tolist() == expected[: len(found)].tolist()
        assert found.sum() == values.size


def test_more_pixels_than_single_precision_counts():
    values = np.full((4097, 4097), 255, np.uint8)  # 2^24 + 2^13 + 1 pixels
    values[0, 0] = 7
    assert count_values(values)[[7, 255]].tolist() == [1, 4097**2 - 1]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("entries", [np.uint8, np.uint16])
def test_values_are_mapped_or_named(kind, entries):
    table = np.array([255, 0, 254, 7], entries)
    raw = np.array([[0, 1, 3], [3, 1, 1]], kind)
    for form in (raw, np.asfortranarray(raw), raw[:, ::-1]):
        label = map_values(form, table, HERE, refused=254)
        assert label.dtype == entries and np.array_equal(label, table[form])
    for wrong in (2, 4, 255):  # an entry that is refused; no entry
        raw[0, 2] = wrong
        with pytest.raises(DataError, match=f"^here: value {wrong} is not a class"):
            map_values(raw, table, HERE, refused=254)
