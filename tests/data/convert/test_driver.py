"""Counting pixels: the fast way gives what NumPy gives."""

import numpy as np
import pytest

from maftp.data.convert import driver
from maftp.data.convert.driver import count_values


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (480, 640), (3, 4, 3)])
def test_counts_are_those_of_numpy(kind, shape):
    values = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    for form in (values, np.asfortranarray(values), values[::-1]):
        expected = np.bincount(form.ravel(), minlength=256)
        found = count_values(form)
        assert found[: len(expected)].tolist() == expected[: len(found)].tolist()
        assert found.sum() == values.size


def test_more_pixels_than_single_precision_counts(monkeypatch):
    values = np.full((4097, 4097), 255, np.uint8)  # 2^24 + 2^13 + 1 pixels
    values[0, 0] = 7
    assert count_values(values)[[7, 255]].tolist() == [1, 4097**2 - 1]
    monkeypatch.setattr(driver, "_EXACT", 10)
    few = np.arange(35, dtype=np.uint8).reshape(5, 7) % 3
    assert count_values(few)[:4].tolist() == np.bincount(few.ravel(), minlength=4).tolist()
