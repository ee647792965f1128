import logging

import pytest

from maftp.data import meter
from maftp.data.meter import Meter


def test_lines_tell_speed_and_time_left(monkeypatch, caplog):
    clock = iter([100.0, 102.0])  # start, then two seconds later
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(meter, "_SECONDS_BETWEEN_LINES", 1.0)
    caplog.set_level(logging.INFO)
    with Meter("a.zip", total=10_000_000, done=2_000_000) as progress:
        progress.add(4_000_000)
    # 4 MB in two seconds: 2 MB/s; 4 MB are left
    assert caplog.messages == ["a.zip: 6.0 MB, 2.0 MB/s, 2 s left of 10.0 MB"]


@pytest.mark.parametrize("total", [None, 10])
def test_a_short_transfer_says_nothing(total, caplog):
    caplog.set_level(logging.INFO)
    with Meter("a.zip", total=total) as progress:
        progress.add(10)
    assert caplog.messages == []
