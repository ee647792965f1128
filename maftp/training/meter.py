"""Means over the steps between two progress lines: the rows of history.csv."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence

import torch
import torch.distributed
from torch import Tensor

Row = dict[str, float]

TIMINGS = ("images_per_second", "data_wait", "seconds")
"""Columns that differ between two equal runs."""


class Meter:
    """Sums loss terms and times; `close` turns them into a row and starts anew."""

    def __init__(self, *, batch_size: int, seconds: float = 0.0) -> None:
        """Start the clock.

        Args:
            batch_size: images per step over all workers.
            seconds: training time of the steps before, in seconds.
        """
        self._batch_size = batch_size
        self._earlier = seconds
        self._start = self._row_start = time.monotonic()
        self._clear()

    @property
    def seconds(self) -> float:
        """Training time so far, of interrupted parts too."""
        return self._earlier + time.monotonic() - self._start

    def add(self, terms: Mapping[str, float], *, waited: float) -> None:
        """Count one step: its loss terms and the seconds it waited for data."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._waited += waited

    def close(self, *, step: int, learning_rate: float, device: torch.device) -> Row:
        """Return the row of the steps since the last; losses are means over steps and workers."""
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64, device=device)
        terms = dict(zip(self._sums, _mean_over_workers(sums / self._steps).tolist(), strict=True))
        elapsed = time.monotonic() - self._row_start
        row = {
            "step": step,
            "loss": sum(terms.values()),
            **terms,
            "learning_rate": learning_rate,
            "images_per_second": self._batch_size * self._steps / elapsed,
            "data_wait": self._waited / elapsed,
            "seconds": self.seconds,
        }
        self._row_start = time.monotonic()
        self._clear()
        return row

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._waited = 0.0


def _mean_over_workers(values: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values


def history_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV text with a header; numbers are written so that they read back equal."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def progress_line(row: Row, *, total: int, batch: int) -> str:
    """Return step, loss, speed, time left, learning rate and share of waiting for data as text.

    Args:
        row: newest row of the history.
        total: steps of the whole training.
        batch: images per step over all workers.
    """
    step, speed = int(row["step"]), row["images_per_second"]
    return (
        f"step {step}/{total}  loss {row['loss']:.3f}  {speed:.1f} images/s  "
        f"{_duration((total - step) * batch / speed)} left  "
        f"lr {row['learning_rate']:.2e}  data {row['data_wait']:.0%}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
