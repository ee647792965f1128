"""Interruptions: how a training is asked to stop, and what one cost.

Both go through small files in the checkpoint folder, which all nodes share. The file that asks is
there from the beginning: a network file system may hide a new file for half a minute, but shows new
content to whoever opens the file.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maftp.files import atomic_path

logger = logging.getLogger(__name__)

_STOP, _PULSE = "stop.txt", "pulse.json"
_SECONDS = 1.0
"""Shortest time between two looks, and between two marks."""


class StopNote:
    """Asks the workers to write a checkpoint and to end."""

    def __init__(self, folder: Path) -> None:
        """Name the file below the checkpoint folder."""
        self._path = folder / _STOP
        self._looked = -_SECONDS

    def clear(self) -> None:
        """Take back what was asked."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")

    def ask(self) -> None:
        """Ask the workers to stop; called by a signal handler."""
        self._path.write_text("stop")

    def asked(self) -> bool:
        """Tell whether the workers were asked to stop."""
        try:
            return bool(self._path.read_text())
        except FileNotFoundError:
            return False

    def asked_lately(self) -> bool:
        """Tell the same once a second, and False in between."""
        if time.monotonic() - self._looked < _SECONDS:
            return False
        self._looked = time.monotonic()
        return self.asked()


class Pulse:
    """Marks how far training is, once a second, so that the next start can say what was lost."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the file below the checkpoint folder."""
        self._path = folder / _PULSE
        self._clock = clock
        self._marked = -_SECONDS

    def mark(self, *, step: int, seconds: float) -> None:
        """Note the steps done and the training time in seconds, unless that was just done."""
        if self._clock() - self._marked >= _SECONDS:
            self._marked = self._clock()
            with atomic_path(self._path) as temporary:
                temporary.write_text(json.dumps({"step": step, "seconds": seconds}))

    @property
    def marked(self) -> bool:
        """True when a training has begun here."""
        return self._path.exists()

    def lost(self, *, step: int, seconds: float) -> tuple[int, float]:
        """Return steps and seconds that a start from the given ones repeats; zero without marks."""
        try:
            last: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return 0, 0.0
        return max(last["step"] - step, 0), max(last["seconds"] - seconds, 0.0)


def describe_loss(*, step: int, lost: tuple[int, float]) -> str:
    """Return one sentence about an interruption: where training goes on and what is repeated."""
    steps, seconds = lost
    return f"going on from step {step}; lost {steps} steps, {seconds:.1f} s of training"


@contextmanager
def heeding_signals(stop: StopNote) -> Iterator[None]:
    """Let SIGTERM ask for a checkpoint, and a second one or Ctrl-C end workers and us at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        if number == signal.SIGTERM and not stop.asked():
            logger.warning("SIGTERM: writing a checkpoint")
            stop.ask()
            return
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
