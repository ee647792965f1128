"""The folder of one run: what is finished lies in it, what is unfinished under `checkpoints/`.

weights.safetensors   written last: where it is, the rest is
best.safetensors      the weights that scored best, where training was validated
validation/           pictures of each validation
history.csv           loss terms, learning rate and speed
manifest.json         what the run was made of, and how long it took
checkpoints/          gone when the weights are complete
"""  # fmt: skip

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maftp.errors import CheckpointError, TrainingError
from maftp.files import atomic_path, write_json
from maftp.training.checkpoint import newest_checkpoint, read_numbers, weights_facts
from maftp.training.interruption import Pulse, describe_loss
from maftp.training.meter import Row, history_csv

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
RUN = "run"
"""Key of the digest of everything a run depends on, in weights and checkpoints."""


class RunFolder:
    """Files of one run; those of another digest are leftovers of other parameters or code."""

    def __init__(self, path: Path, *, digest: str) -> None:
        """Name the files; nothing is made yet.

        Args:
            path: folder of the run.
            digest: of everything the weights depend on.
        """
        self.path = Path(path).resolve()
        self.digest = digest
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / WEIGHTS
        self.history = self.path / "history.csv"
        self.manifest = self.path / "manifest.json"

    @property
    def complete(self) -> bool:
        """True when nothing is left to do."""
        done = weights_facts(self.weights).get(RUN) == self.digest
        return done and self.history.exists() and self.manifest.exists()

    @property
    def trained(self) -> bool:
        """True when only `publish` is left to do."""
        return weights_facts(self.checkpoints / WEIGHTS).get(RUN) == self.digest

    def begin(self) -> None:
        """Keep the newest checkpoint, and weights, of this digest; clear everything else away."""
        newest = newest_checkpoint(self.checkpoints)
        if newest is not None and _digest(newest) != self.digest:
            logger.warning(
                "%s: a checkpoint of other parameters, inputs or code; starting anew", newest
            )
            newest = None
        if newest is not None:
            numbers = read_numbers(newest)
            lost = Pulse(self.checkpoints).lost(step=numbers["step"], seconds=numbers["seconds"])
            logger.info("%s", describe_loss(step=numbers["step"], lost=lost))
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        kept = {newest, newest and self.checkpoints / BEST}
        kept.add(self.checkpoints / WEIGHTS if self.trained else None)
        for path in set(self.checkpoints.iterdir()) - kept:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """Return the history up to the newest checkpoint."""
        newest = newest_checkpoint(self.checkpoints)
        return read_numbers(newest)["history"] if newest is not None else []

    def clear(self) -> None:
        """Remove the checkpoints of a complete run."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def publish(self, manifest: Mapping[str, Any]) -> None:
        """Write history and manifest, move the weights into place, remove the checkpoints.

        Args:
            manifest: what the run was made of; steps, trained parameters, seconds and peak
                memory are added.

        Raises:
            TrainingError: there is no checkpoint of the last step.
        """
        newest = newest_checkpoint(self.checkpoints)
        if newest is None or not self.trained:
            raise TrainingError(f"{self.checkpoints}: training did not finish; run it again")
        numbers = read_numbers(newest)
        with atomic_path(self.history) as temporary:
            temporary.write_text(history_csv(numbers["history"]))
        measured = {
            "steps": numbers["step"],
            "trainable_parameters": numbers["trainable_parameters"],
            "training_seconds": round(numbers["seconds"], 1),
            "peak_memory_mb": round(numbers["peak_memory_bytes"] / 2**20),
        }
        write_json(self.manifest, {**manifest, **measured})
        (self.path / BEST).unlink(missing_ok=True)
        if (self.checkpoints / BEST).exists():
            os.replace(self.checkpoints / BEST, self.path / BEST)
        os.replace(self.checkpoints / WEIGHTS, self.weights)
        self.clear()


def _digest(checkpoint: Path) -> str | None:
    try:
        return read_numbers(checkpoint).get(RUN)
    except CheckpointError:
        return None
