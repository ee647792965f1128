"""Rows of the history and the progress line."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

from maftp.training.distributed import Worker
from maftp.training.meter import Meter, history_csv, progress_line

NORM = torch.tensor(1.0)


def close(meter, step):
    return meter.close(step=step, learning_rate=1e-3)


def test_means_since_the_last_row():
    meter = Meter(batch_size=4, worker=Worker())
    meter.add({"loss_ce": 1.0, "rc_loss": 0.5}, norm=NORM, waited=0.0)
    meter.add({"loss_ce": 3.0, "rc_loss": 1.5}, norm=NORM, waited=0.0)
    row = close(meter, 2)
    assert (row["step"], row["loss"], row["loss_ce"], row["rc_loss"]) == (2, 3.0, 2.0, 1.0)
    meter.add({"loss_ce": 7.0, "rc_loss": 0.0}, norm=NORM, waited=0.0)
    assert close(meter, 3)["loss"] == 7.0


def test_times(monkeypatch):
    # Three steps of 4 images in 6 s, 1.5 s of them waiting; 100 s were spent before.
    now = [10.0]
    monkeypatch.setattr("maftp.training.meter.time.monotonic", lambda: now[0])
    meter = Meter(batch_size=4, worker=Worker(), seconds=100.0)
    for _ in range(3):
        now[0] += 2.0
        meter.add({"loss_ce": 1.0}, norm=NORM, waited=0.5)
    row = close(meter, 3)
    assert row["images_per_second"] == pytest.approx(2.0)
    assert row["data_wait"] == pytest.approx(0.25)
    assert row["seconds"] == pytest.approx(106.0)


def test_gradient_norm_leaves_out_steps_that_loss_scaling_left_out():
    meter = Meter(batch_size=4, worker=Worker())
    for norm in (1.0, torch.inf, 3.0, torch.nan):
        meter.add({"loss_ce": 1.0}, norm=torch.tensor(norm), waited=0.0)
    assert close(meter, 4)["gradient_norm"] == 2.0


def test_a_half_row_goes_on(monkeypatch):
    # Two steps in 4 s before an interruption, one in 2 s after it: 3 x 4 images in 6 s.
    now = [10.0]
    monkeypatch.setattr("maftp.training.meter.time.monotonic", lambda: now[0])
    first = Meter(batch_size=4, worker=Worker())
    for loss in (1.0, 3.0):
        now[0] += 2.0
        first.add({"loss_ce": loss}, norm=NORM, waited=1.0)
    state = json.loads(json.dumps(first.state()))
    now[0] += 1000.0
    second = Meter(batch_size=4, worker=Worker(), seconds=4.0)
    second.restore(state)
    now[0] += 2.0
    second.add({"loss_ce": 8.0}, norm=4 * NORM, waited=1.0)
    row = close(second, 3)
    assert (row["loss"], row["gradient_norm"], row["seconds"]) == (4.0, 2.0, 6.0)
    assert (row["images_per_second"], row["data_wait"]) == (2.0, 0.5)


def test_a_half_row_goes_on_with_another_number_of_workers():
    """Of two workers' sums 3 and 5 one worker goes on with their mean, which the row shows."""
    state = {
        "steps": 1, "waited": 0.0, "elapsed": 1.0, "norms": [1.0, 1.0],
        "names": ["loss_ce"], "sums": [[3.0], [5.0]],
    }  # fmt: skip
    meter = Meter(batch_size=4, worker=Worker())
    meter.restore(state)
    assert close(meter, 1)["loss"] == 4.0


def test_csv_reads_back_equal():
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-17}]
    back = list(csv.DictReader(io.StringIO(history_csv(rows))))
    assert [float(row["loss"]) for row in back] == [row["loss"] for row in rows]
    assert history_csv([]) == ""


def test_progress_line():
    # 400 steps of 8 images at 16 images/s: 200 s left.
    row = {
        "step": 200, "loss": 12.3456, "learning_rate": 5e-4,
        "images_per_second": 16.0, "data_wait": 0.031, "loss_ce": 7.0, "loss_ce_0": 4.8456,
        "ranking_loss": 0.5, "gradient_norm": 0.1234, "memory_mb": 512,
    }  # fmt: skip
    assert progress_line(row, total=600, batch=8) == (
        "step 200/600  loss 12.346 (ce 7.000  ranking 0.500)  norm 0.123  16 images/s  "
        "3:20 left  lr 5.00e-04  data 3%  512 MB"
    )
    assert "13:53:20 left" in progress_line(row | {"images_per_second": 0.064}, total=600, batch=8)
