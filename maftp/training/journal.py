"""History and checkpoints of a training: when one is due, what is in it, and where it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from maftp.data.fingerprint import picture_digests
from maftp.errors import TrainingError
from maftp.memory import peak_memory
from maftp.modeling.checkpoint import DERIVED
from maftp.modeling.tensor_files import not_finite
from maftp.ops import backends
from maftp.training.checkpoint import (
    BEST,
    TrainingState,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    step_folder,
    trained_tensors,
)
from maftp.training.distributed import NextAction, Worker
from maftp.training.meter import SCORE, Meter, Row
from maftp.training.mirror import Mirror
from maftp.training.run_folder import RUN
from maftp.training.worker_files import Heartbeat

if TYPE_CHECKING:
    from maftp.config import Params


class Journal:
    """History and checkpoints of one training."""

    def __init__(
        self, state: TrainingState, *, folder: Path, params: Params, worker: Worker, run: str
    ) -> None:
        """Load the newest checkpoint into `state` when there is one."""
        self._state = state
        self._folder = folder
        self._execution = params.execution
        self._worker = worker
        newest = newest_checkpoint(folder)
        numbers = load_checkpoint(newest, state) if newest is not None else {}
        self._numbers = {"step": 0, "seconds": 0.0, "history": [], **numbers, RUN: run}
        self._meter = Meter(
            batch_size=params.train.batch_size, seconds=self._numbers["seconds"], worker=worker
        )
        half_row = self._numbers.pop("meter", None)
        if half_row is not None:
            self._meter.restore(half_row)
        self._heartbeat = Heartbeat(folder)
        mirror = params.resources.checkpoint_mirror
        self._mirror = Mirror(mirror, run=run) if mirror and worker.rank == 0 else None
        self._saved = time.monotonic()

    @property
    def step(self) -> int:
        """Steps that the newest checkpoint holds."""
        return self._numbers["step"]

    def next_action(self, asked_to_stop: Callable[[], bool]) -> NextAction:
        """Return what the first worker wants; the others want nothing."""
        if self._worker.rank > 0:
            return NextAction.CONTINUE
        if asked_to_stop():
            return NextAction.STOP
        minutes = self._execution.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self._saved > 60 * minutes
        return NextAction.SAVE if late else NextAction.CONTINUE

    def add(self, terms: Mapping[str, float], *, norm: Tensor, waited: float, step: int) -> None:
        """Count a step."""
        self._meter.add(terms, norm=norm, waited=waited)
        if self._worker.rank == 0:
            self._heartbeat.mark(step=step, seconds=self._meter.seconds)

    def close_row(self, *, step: int, learning_rate: float) -> Row:
        """Add a row to the history and return it."""
        row = self._meter.close(step=step, learning_rate=learning_rate)
        self._numbers["history"].append(row)
        return row

    def note_score(self, row: Row, score: float | None) -> bool:
        """Add a validation score to the newest row; tell whether it is the best so far.

        The time it took counts as training time, but not as that of the next row's images.
        """
        self._meter.leave_out()
        if score is None:
            return False
        scores = [r[SCORE] for r in self._numbers["history"] if SCORE in r]
        row[SCORE] = score
        return score > max((s for s in scores if not math.isnan(s)), default=-math.inf)

    def save(self, step: int, **more: Any) -> Path:
        """Write the checkpoint of so many steps, from the first worker, and drop old ones."""
        path = step_folder(self._folder, step)
        self._numbers |= {"step": step, "seconds": self._meter.seconds}
        self._saved = time.monotonic()
        if self._worker.rank == 0:
            self._refuse_broken_weights(step)
            self._numbers |= self._measures()
            best = self._folder / BEST
            save_checkpoint(
                path, self._state, self._numbers | more, best=best if best.exists() else None
            )
            prune_checkpoints(self._folder, keep=self._execution.checkpoints_kept)
        if self._mirror is not None:
            self._mirror.push(path, keep=self._execution.checkpoints_kept)
        return path

    def save_between_rows(self, step: int) -> None:
        """Write a checkpoint that holds the half row too, unless this step's is there."""
        half_row = self._meter.state()
        if step > self.step:
            self.save(step, meter=half_row)

    def _refuse_broken_weights(self, step: int) -> None:
        """Keep the last sound checkpoint the newest: from NaN no training comes back."""
        tensors = trained_tensors(self._state.model)
        wrong = not_finite({n: t for n, t in tensors.items() if not n.endswith(DERIVED)})
        if wrong:
            raise TrainingError(
                f"step {step}: {len(wrong)} weights are not finite any more ({wrong[0]}, ...); "
                "lower train.learning_rate or train.clip_gradients"
            )

    def _measures(self) -> dict[str, Any]:
        """Return trained elements, peak memory, of interrupted parts too, and what computed.

        All of the first worker, which has as much to do as any.
        """
        parameters = self._state.model.parameters()
        peaks = peak_memory(self._worker.device)
        return {
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "operators": {"ms_deform_attn": backends.describe(self._worker.device.type)},
            "pictures": picture_digests(),
            **{key: max(value, self._numbers.get(key, 0.0)) for key, value in peaks.items()},
        }
