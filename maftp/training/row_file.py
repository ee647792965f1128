"""Rows of the history on their way from the first worker to the driver: a file both can reach."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from maftp.training.checkpoint import newest_checkpoint, read_numbers
from maftp.training.interruption import Pulse, describe_loss
from maftp.training.meter import Row

_NAME = "rows.jsonl"
_EVENT = "event"
"""Key of a line that is a sentence, not a row."""


class RowFile:
    """Lines below the checkpoint folder; one process adds, another reads what is fresh."""

    def __init__(self, folder: Path) -> None:
        """Name the file; reading starts at its beginning."""
        self._folder = folder
        self._path = folder / _NAME
        self._position = 0

    def add(self, row: Mapping[str, float | str]) -> None:
        """Append a row."""
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def note_restart(self) -> None:
        """Append what was lost, when workers before these had begun."""
        pulse = Pulse(self._folder)
        if pulse.marked:
            newest = newest_checkpoint(self._folder)
            numbers = {"step": 0, "seconds": 0.0} if newest is None else read_numbers(newest)
            lost = pulse.lost(step=numbers["step"], seconds=numbers["seconds"])
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
