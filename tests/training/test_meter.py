"""Rows of the history and the progress line."""

from __future__ import annotations

import csv
import io

import pytest
import torch

from maftp.training.meter import Meter, history_csv, progress_line


def close(meter, step):
    return meter.close(step=step, learning_rate=1e-3, device=torch.device("cpu"))


def test_means_since_the_last_row():
    meter = Meter(batch_size=4)
    meter.add({"loss_ce": 1.0, "rc_loss": 0.5}, waited=0.0)
    meter.add({"loss_ce": 3.0, "rc_loss": 1.5}, waited=0.0)
    row = close(meter, 2)
    assert (row["step"], row["loss"], row["loss_ce"], row["rc_loss"]) == (2, 3.0, 2.0, 1.0)
    meter.add({"loss_ce": 7.0, "rc_loss": 0.0}, waited=0.0)
    assert close(meter, 3)["loss"] == 7.0


def test_times(monkeypatch):
    # Three steps of 4 images in 6 s, 1.5 s of them waiting; 100 s were spent before.
    now = [10.0]
    monkeypatch.setattr("maftp.training.meter.time.monotonic", lambda: now[0])
    meter = Meter(batch_size=4, seconds=100.0)
    for _ in range(3):
        now[0] += 2.0
        meter.add({"loss_ce": 1.0}, waited=0.5)
    row = close(meter, 3)
    assert row["images_per_second"] == pytest.approx(2.0)
    assert row["data_wait"] == pytest.approx(0.25)
    assert row["seconds"] == pytest.approx(106.0)


def test_csv_reads_back_equal():
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-17}]
    back = list(csv.DictReader(io.StringIO(history_csv(rows))))
    assert [float(row["loss"]) for row in back] == [row["loss"] for row in rows]
    assert history_csv([]) == ""


def test_progress_line():
    # 400 steps of 8 images at 16 images/s: 200 s left.
    row = {
        "step": 200, "loss": 12.3456, "learning_rate": 5e-4,
        "images_per_second": 16.0, "data_wait": 0.031,
    }  # fmt: skip
    assert progress_line(row, total=600, batch=8) == (
        "step 200/600  loss 12.346  16.0 images/s  3:20 left  lr 5.00e-04  data 3%"
    )
    assert "13:53:20 left" in progress_line(row | {"images_per_second": 0.064}, total=600, batch=8)
