"""Means over the steps between two progress lines: the rows of history.csv."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maftp.memory import GPU, HOST, peak_memory
from maftp.progress import clock
from maftp.training.distributed import Worker

Row = dict[str, float]

TIMINGS = ("images_per_second", "data_wait", "memory_mb", "seconds")
"""Columns that differ between two equal runs."""
SCORE = "validation"
"""Column of validation scores, in percent; only rows that end with a validation have it."""


class Meter:
    """Sums loss terms and times; `close` turns them into a row and starts anew."""

    def __init__(self, *, batch_size: int, worker: Worker, seconds: float = 0.0) -> None:
        """Start the clock.

        Args:
            batch_size: images per step over all workers.
            worker: this worker among all.
            seconds: training time of the steps before, in seconds.
        """
        self._batch_size = batch_size
        self._worker = worker
        self._earlier = seconds
        self._start = self._row_start = time.monotonic()
        self._clear()

    @property
    def seconds(self) -> float:
        """Training time so far, of interrupted parts too."""
        return self._earlier + time.monotonic() - self._start

    def add(self, terms: Mapping[str, float], *, norm: Tensor, waited: float) -> None:
        """Count one step: its loss terms, gradient norm, and the seconds it waited for data.

        A norm that is not finite belongs to a step that loss scaling left out; it is not counted.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        finite = norm.detach().isfinite()
        counted = torch.stack([torch.where(finite, norm.detach(), 0.0), finite.to(norm.dtype)])
        self._norms = counted.double() + self._norms
        self._steps += 1
        self._waited += waited

    def close(self, *, step: int, learning_rate: float) -> Row:
        """Return the row of the steps since the last; losses are means over steps and workers."""
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64) / self._steps
        terms = dict(zip(self._sums, self._worker.gather(sums).mean(0).tolist(), strict=True))
        elapsed = time.monotonic() - self._row_start
        norm, counted = torch.as_tensor(self._norms).tolist()
        row = {
            "step": step,
            "loss": sum(terms.values()),
            **terms,
            "learning_rate": learning_rate,
            "gradient_norm": norm / max(counted, 1.0),
            "images_per_second": self._batch_size * self._steps / elapsed,
            "data_wait": self._waited / elapsed,
            "memory_mb": _memory(self._worker.device),
            "seconds": self.seconds,
        }
        self._row_start = time.monotonic()
        self._clear()
        return row

    def leave_out(self) -> None:
        """Let the next row begin now; what happened since the last one is none of its time."""
        self._row_start = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return the half row that a checkpoint between two rows must keep; fits into JSON."""
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64)
        return {
            "steps": self._steps,
            "waited": self._waited,
            "elapsed": time.monotonic() - self._row_start,
            "norms": torch.as_tensor(self._norms).tolist(),
            "names": list(self._sums),
            "sums": self._worker.gather(sums).tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the half row that `state` returned, each worker with its own sums.

        When there are more or fewer workers than before, each has the mean: so has the row.
        """
        self._steps, self._waited = state["steps"], state["waited"]
        self._row_start = time.monotonic() - state["elapsed"]
        self._norms = torch.tensor(state["norms"], dtype=torch.float64, device=self._worker.device)
        sums = torch.tensor(state["sums"], dtype=torch.float64)
        own = sums[self._worker.rank] if len(sums) == self._worker.world_size else sums.mean(0)
        self._sums = dict(zip(state["names"], own.tolist(), strict=True))

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._norms = torch.zeros(2, dtype=torch.float64, device=self._worker.device)
        self._steps = 0
        self._waited = 0.0


def _memory(device: torch.device) -> float:
    """Return the peak of the memory that runs out first: the GPU's, else the process's."""
    found = peak_memory(device)
    return found.get(GPU, found[HOST])


def history_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV text with a header; numbers are written so that they read back equal."""
    text = io.StringIO()
    if rows:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def progress_line(row: Row, *, total: int, batch: int) -> str:
    """Return one line about a training: step, losses, gradient norm, speed, time left, memory.

    Losses of the decoder's earlier layers are in the sum but not named.

    Args:
        row: newest row of the history.
        total: steps of the whole training.
        batch: images per step over all workers.
    """
    step, speed = int(row["step"]), row["images_per_second"]
    score = f"  {SCORE} {row[SCORE]:.2f}" if SCORE in row else ""
    terms = "  ".join(
        f"{name.removeprefix('loss_').removesuffix('_loss')} {value:.3f}"
        for name, value in row.items()
        if re.fullmatch(r"loss_[a-z]+|[a-z]+_loss", name)
    )
    return (
        f"step {step}/{total}  loss {row['loss']:.3f} ({terms})  "
        f"norm {row['gradient_norm']:.3g}  {speed:.3g} images/s  "
        f"{clock((total - step) * batch / speed)} left  "
        f"lr {row['learning_rate']:.2e}  data {row['data_wait']:.0%}  "
        f"{row['memory_mb']:.0f} MB{score}"
    )
