"""Files in the checkpoint folder through which driver and workers talk, on whatever node they are.

stop.txt         asks the workers for a checkpoint and to end
heartbeat.json   how far training is, so that the next start can say what was lost
rows.jsonl       rows of the history on their way to the driver
failure.json     why the workers gave up

Files that are read while they are expected are there from the beginning: a network file system may
hide a new file for half a minute, but shows new content to whoever opens the file.
"""  # fmt: skip

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maftp.errors import Interrupted, MaftpError, TrainingError
from maftp.files import atomic_path
from maftp.training.checkpoint import newest_checkpoint, read_numbers
from maftp.training.meter import Row

_STOP, _HEARTBEAT = "stop.txt", "heartbeat.json"
_SECONDS = 1.0
"""Shortest time between two looks, and between two marks."""
_ROWS = "rows.jsonl"
_EVENT = "event"
"""Key of a line that is a sentence, not a row."""


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


class Heartbeat:
    """Marks how far training is, once a second, so that the next start can say what was lost."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the file below the checkpoint folder."""
        self._path = folder / _HEARTBEAT
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


class RowFile:
    """Lines below the checkpoint folder; one process adds, another reads what is fresh."""

    def __init__(self, folder: Path) -> None:
        """Name the file; reading starts at its beginning."""
        self._folder = folder
        self._path = folder / _ROWS
        self._position = 0

    def add(self, row: Mapping[str, float | str]) -> None:
        """Append a row."""
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def note_restart(self) -> None:
        """Append what was lost, when workers before these had begun."""
        heartbeat = Heartbeat(self._folder)
        if heartbeat.marked:
            newest = newest_checkpoint(self._folder)
            numbers = {"step": 0, "seconds": 0.0} if newest is None else read_numbers(newest)
            lost = heartbeat.lost(step=numbers["step"], seconds=numbers["seconds"])
            sentence = describe_loss(step=numbers["step"], lost=lost)
            self.add({_EVENT: f"a worker was lost: {sentence}"})

    def fresh(self) -> Iterator[Row | str]:
        """Yield the rows, and sentences, added since the last call."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._position)
            lines = [line for line in file if line.endswith(b"\n")]
        self._position += sum(map(len, lines))
        for line in lines:
            row = json.loads(line)
            yield row.get(_EVENT, row)


class LastWords:
    """Why workers gave up: a file below the checkpoint folder, with its room taken beforehand.

    The reason may be that the disk is full; a file that is there can be written over even then.
    """

    _ROOM = 8192

    def __init__(self, folder: Path) -> None:
        """Name the file; nothing is made yet."""
        self._path = folder / "failure.json"

    def make_room(self) -> None:
        """Take the room on the disk, and take back what was said."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(" " * self._ROOM)

    def say(self, error: MaftpError) -> None:
        """Note why training cannot go on, and whether that may pass."""
        text = json.dumps({"text": str(error), "may_pass": isinstance(error, Interrupted)})
        with open(self._path, "r+b", buffering=0) as file:
            file.truncate(max(file.write(text.encode().ljust(self._ROOM)), self._ROOM))

    def read(self) -> TrainingError | None:
        """Return the error to be raised, or None when nothing was said."""
        try:
            said = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        return (Interrupted if said["may_pass"] else TrainingError)(said["text"])
