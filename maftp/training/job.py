"""What a worker needs to know, and what it says when trying again does not help."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from maftp.errors import Interrupted, MaftpError, TrainingError
from maftp.training.worker import BatchFactory

if TYPE_CHECKING:
    from maftp.config import Params

Prepare = Callable[..., tuple[nn.Module, BatchFactory]]
"""Called as `maftp.training.worker.prepare` is."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    params: Params
    seed: int
    clip: Path
    embeddings: Path
    folder: Path
    """The run's checkpoints."""
    facts: Mapping[str, Any]
    """Noted in the final weights."""
    working_directory: Path
    """Relative paths of the parameters start here."""
    prepare: Prepare


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
