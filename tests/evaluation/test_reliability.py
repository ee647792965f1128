"""Reliability and shares of a gap, by hand."""

import numpy as np
import pytest

from maftp.evaluation.reliability import gap_shares, reliability, share


def test_calibration_error_of_four_statements():
    # bin 0.2..0.3: 0.25 stated, 0 came true; bin 0.8..0.9: 0.85 stated, 2 of 3 came true
    found = reliability(
        np.array([0.25, 0.8001, 0.85, 0.8999]), np.array([False, True, True, False])
    )
    assert found["count"] == 4
    assert [(record["low"], record["count"]) for record in found["bins"]] == [(20, 1), (80, 3)]
    assert found["bins"][1]["confidence"] == pytest.approx(85)
    assert found["bins"][1]["accuracy"] == pytest.approx(200 / 3)
    assert found["ece"] == pytest.approx(25 / 4 + (85 - 200 / 3) * 3 / 4)
    assert (found["confidence"], found["accuracy"]) == (pytest.approx(70), 50)


def test_bins_hold_their_upper_edge():
    found = reliability(np.array([0.0, 0.1, 1.0]), np.array([True, True, True]))
    assert [(record["low"], record["count"]) for record in found["bins"]] == [(0, 2), (90, 1)]


def test_nothing_is_calibrated_without_statements():
    found = reliability(np.zeros(0), np.zeros(0, bool))
    assert found["ece"] is None and found["accuracy"] is None and found["bins"] == []
    assert share(np.zeros(0)) is None


def test_shares_of_a_gap_add_up():
    """Two parts that only help together share evenly; a third adds its own 10 in any order."""
    both = {"a", "b"}

    def score(repaired):
        return 30 + 10 * ("c" in repaired) + 60 * (both <= set(repaired))

    assert gap_shares(("a", "b", "c"), score) == pytest.approx({"a": 30, "b": 30, "c": 10})


def test_a_part_is_worth_the_mean_over_all_orders():
    scores = {"": 50, "m": 70, "c": 60, "cm": 100}
    found = gap_shares(("m", "c"), lambda repaired: scores["".join(sorted(repaired))])
    assert found == pytest.approx({"m": (20 + 40) / 2, "c": (10 + 30) / 2})
