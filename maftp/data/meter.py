"""Progress of a transfer in bytes, with speed and time left: a live bar, or lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0
_WORTH_A_BAR = 32 << 20


class Meter:
    """Shows how many bytes of `total` are there; use it as a context manager.

    Args:
        description: what is transferred.
        total: bytes in all, None when unknown.
        done: bytes that were there before.
    """

    def __init__(self, description: str, *, total: int | None, done: int = 0) -> None:
        self.description = description
        self.total = total
        self.done = self._start_done = done
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty() and (self.total or _WORTH_A_BAR) >= _WORTH_A_BAR:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.description, total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Count `count` more bytes."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        speed = (self.done - self._start_done) / (now - self._start)
        line = f"{self.description}: {decimal(self.done)}, {decimal(int(speed))}/s"
        if self.total and speed:
            line += f", {(self.total - self.done) / speed:.0f} s left of {decimal(self.total)}"
        return line
