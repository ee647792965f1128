"""The folder of one run: what is finished lies in it, what is unfinished under `checkpoints/`.

weights.safetensors   written last: where it is, the rest is
best.safetensors      the weights that scored best, where training was validated
validation/           pictures of each validation
history.csv           loss terms, learning rate and speed
manifest.json         what the run was made of, and how long it took
checkpoints/          gone when the weights are complete
checkpoints-replaced-DIGEST/
                      of other parameters, inputs or code: theirs again when those come back
checkpoints-damaged/  when a disk has spoilt them all
"""  # fmt: skip

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maftp.errors import CheckpointError, TrainingError
from maftp.files import atomic_path, link_or_copy, write_json
from maftp.memory import GPU, HOST
from maftp.results import HISTORY, MANIFEST, WEIGHTS
from maftp.results import VALIDATION as VALIDATION
from maftp.training.checkpoint import (
    BEST,
    STATE,
    all_checkpoints,
    check_checkpoint,
    newest_checkpoint,
    read_numbers,
    weights_facts,
)
from maftp.training.meter import Row, history_csv
from maftp.training.worker_files import Heartbeat, describe_loss

logger = logging.getLogger(__name__)

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
        self.history = self.path / HISTORY
        self.manifest = self.path / MANIFEST

    @property
    def complete(self) -> bool:
        """True when nothing is left to do."""
        done = weights_facts(self.weights).get(RUN) == self.digest
        return done and self.history.exists() and self.manifest.exists()

    @property
    def begun(self) -> bool:
        """True when a checkpoint of this run is there to go on from."""
        return _run_of(self.checkpoints) == self.digest

    @property
    def trained(self) -> bool:
        """True when only `publish` is left to do."""
        return weights_facts(self.checkpoints / WEIGHTS).get(RUN) == self.digest

    def set_others_aside(self) -> None:
        """Move checkpoints of another run out of the way, and those of this one back into place."""
        other = _run_of(self.checkpoints)
        if other not in (None, self.digest):
            aside = self._move_aside(f"replaced-{other}")
            logger.warning(
                "%s: checkpoints of other parameters, inputs or code; they are kept in %s",
                self.checkpoints, aside,
            )  # fmt: skip
        mine = next(iter(sorted(self.path.glob(f"checkpoints-replaced-{self.digest}*"))), None)
        if mine is not None and not all_checkpoints(self.checkpoints):
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            os.rename(mine, self.checkpoints)
            logger.info("the checkpoints in %s are of these parameters; going on with them", mine)

    def begin(self) -> None:
        """Keep the sound checkpoints of this run, go back over damaged ones, clear away the rest.

        Nothing another run has made is deleted, and no older checkpoint before a newer one, made
        later on, is known to be sound.
        """
        self.set_others_aside()
        newest = self._go_back_to_a_sound_one()
        if newest is not None:
            numbers = read_numbers(newest)
            lost = Heartbeat(self.checkpoints).lost(
                step=numbers["step"], seconds=numbers["seconds"]
            )
            logger.info("%s", describe_loss(step=numbers["step"], lost=lost))
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        # The weights too: nothing shows that they are sound, and the last checkpoint makes them.
        for path in set(self.checkpoints.iterdir()) - set(all_checkpoints(self.checkpoints)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if newest is not None and (newest / BEST).exists():
            link_or_copy(newest / BEST, self.checkpoints / BEST)

    def _go_back_to_a_sound_one(self) -> Path | None:
        """Return the newest sound checkpoint; say which newer ones are damaged, and remove them."""
        damaged = {}
        for path in reversed(all_checkpoints(self.checkpoints)):
            try:
                check_checkpoint(path)
            except CheckpointError as error:
                damaged[path] = str(error).removesuffix("; remove the folder")
                continue
            for other, reason in damaged.items():
                logger.warning("%s; going back to step %d", reason, read_numbers(path)["step"])
                shutil.rmtree(other)
            return path
        if damaged:
            aside = self._move_aside("damaged")
            logger.warning(
                "%s; no checkpoint is sound, they are kept in %s; starting anew",
                "; ".join(damaged.values()), aside,
            )  # fmt: skip
        return None

    def _move_aside(self, name: str) -> Path:
        """Rename the folder of checkpoints; return its new place."""
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        places = (self.path / f"checkpoints-{name}" for name in names)
        aside = next(place for place in places if not place.exists())
        os.rename(self.checkpoints, aside)
        return aside

    def rows(self) -> list[Row]:
        """Return the history up to the newest checkpoint."""
        newest = newest_checkpoint(self.checkpoints)
        return read_numbers(newest)["history"] if newest is not None else []

    def clear(self) -> None:
        """Remove the checkpoints of a complete run; those of another are set aside."""
        self.set_others_aside()
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def publish(self, manifest: Mapping[str, Any]) -> None:
        """Write history and manifest, move the weights into place, remove the checkpoints.

        Args:
            manifest: what the run was made of; steps, trained parameters, seconds and peak
                memory are added.

        Raises:
            TrainingError: there is no sound checkpoint of the last step.
        """
        newest = newest_checkpoint(self.checkpoints)
        whole = newest is not None and newest == all_checkpoints(self.checkpoints)[-1]
        if not whole or not self.trained:
            raise TrainingError(f"{self.checkpoints}: training did not finish; run it again")
        numbers = read_numbers(newest)
        with atomic_path(self.history) as temporary:
            temporary.write_text(history_csv(numbers["history"]))
        measured = {
            "steps": numbers["step"],
            "trainable_parameters": numbers["trainable_parameters"],
            "training_seconds": round(numbers["seconds"], 1),
            **{key: numbers[key] for key in ("operators", "pictures", HOST, GPU) if key in numbers},
        }
        write_json(self.manifest, {**manifest, **measured})
        (self.path / BEST).unlink(missing_ok=True)
        if (self.checkpoints / BEST).exists():
            os.replace(self.checkpoints / BEST, self.path / BEST)
        os.replace(self.checkpoints / WEIGHTS, self.weights)
        self.clear()


def _run_of(checkpoints: Path) -> str | None:
    """Return the digest of the run that checkpoints are of, damaged ones too as far as they say."""
    for read in (read_numbers, _numbers_unchecked):
        for path in reversed(all_checkpoints(checkpoints)):
            try:
                run = read(path)[RUN]
            except (CheckpointError, OSError, ValueError, LookupError, TypeError):
                continue
            if isinstance(run, str) and run.isalnum():
                return run
    return None


def _numbers_unchecked(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE).read_text())
