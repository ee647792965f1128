"""One optimizer step of one worker: its share of the batch in micro-batches, and the update.

What a step computes depends on (seed, step) and the weights; how the batch is shared out among
workers and micro-batches changes the order of additions only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maftp.errors import TrainingError
from maftp.losses.batch_share import BatchShare, computing
from maftp.training.checkpoint import TrainingState
from maftp.training.distributed import Batch, WholeBatch, Worker, micro_batches
from maftp.training.failure import is_out_of_memory, not_finite, out_of_memory
from maftp.training.optimizer import build_optimizer, build_scheduler, clip_gradients

if TYPE_CHECKING:
    from maftp.config import Params


_SMALLEST_SCALE = 1e-4
"""Loss scale from which on training is given up: it begins at 65536, and a step whose gradients
overflow halves it and changes nothing else."""


@dataclass(frozen=True)
class _Done:
    """A micro-batch whose gradients are added."""

    batch: Batch
    first: int
    """Index of its first image in the whole batch."""
    seed: int
    names: tuple[str, ...]
    values: Tensor
    """Weighted losses, on the device."""


class Trainer:
    """Model, optimizer, schedule and loss scaler of one worker; does one step at a time."""

    def __init__(
        self, model: nn.Module, *, params: Params, seed: int, folder: Path, worker: Worker
    ) -> None:
        """Move the model to its device and join the other workers.

        Args:
            model: offers `parameter_groups()`; in training mode returns a dict of weighted losses.
            params: one variant of an experiment.
            seed: of the random points; they differ from step to step.
            folder: for what repeats a step whose loss is not finite.
            worker: this worker among all.
        """
        self._params = params
        self._seed = seed
        self._folder = folder
        self._worker = worker
        model.to(worker.device).train()
        self._optimizer = build_optimizer(model, model.parameter_groups(), params=params)
        self._scheduler = build_scheduler(self._optimizer, params=params)
        scaled = params.train.amp and params.train.amp_dtype == "float16"
        self._scaler = torch.amp.GradScaler(worker.device.type, enabled=scaled)
        self._model = _distribute(model, worker)
        parts = {
            "optimizer": self._optimizer, "scheduler": self._scheduler, "scaler": self._scaler
        }  # fmt: skip
        self.state = TrainingState(model=model, parts=parts)

    @property
    def learning_rate(self) -> float:
        """Rate of everything but the CLIP trunk at the next step."""
        return max(self._scheduler.get_last_lr())

    def step(
        self, batch: Batch, whole: WholeBatch, *, step: int
    ) -> tuple[dict[str, float], Tensor]:
        """Do the 0-based `step` with this worker's share of the whole batch.

        Returns:
            The weighted loss terms of this worker, and the gradient's norm over all workers.

        Raises:
            TrainingError: a loss is not finite, or memory does not suffice; names the step.
        """
        images = self._params.execution.micro_batch_size
        cut = list(micro_batches(batch, whole, images=images, worker=self._worker))
        done: list[_Done] = []
        for index, (part, share) in enumerate(cut):
            with self._together(index == len(cut) - 1):
                done.append(self._guarded(part, share, step=step, size=whole.size))
        self._scaler.unscale_(self._optimizer)
        norm = clip_gradients(self._optimizer, max_norm=self._params.train.clip_gradients)
        terms = self._read(done, step=step)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._scheduler.step()
        return terms, norm

    def refuse_endless_overflow(self, step: int) -> None:
        """Ask whether anything is learnt at all; the host waits for it, so not in every step.

        Raises:
            TrainingError: gradients have overflowed float16 in all of the last steps.
        """
        if self._scaler.is_enabled() and self._scaler.get_scale() < _SMALLEST_SCALE:
            raise TrainingError(
                f"step {step}: the gradients overflow float16 in every step, whatever the loss is "
                "scaled by, so nothing is learnt; set train.amp_dtype to bfloat16, or lower "
                "train.learning_rate"
            )

    def _together(self, last: bool) -> AbstractContextManager[None]:
        """Let workers exchange gradients in the last micro-batch only."""
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    def _guarded(
        self, part: Batch, share: BatchShare, *, step: int, size: tuple[int, int]
    ) -> _Done:
        try:
            return self._add_gradients(part, share, step=step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(
                self._params, step=step, images=len(part), size=size, device=self._worker.device
            ) from error

    def _add_gradients(self, part: Batch, share: BatchShare, *, step: int) -> _Done:
        """Compute the losses of one micro-batch and add their gradients."""
        seed_step(self._seed, step, self._stream(share))
        seed = torch.initial_seed()
        recipe = self._params.train
        dtype = getattr(torch, recipe.amp_dtype)
        with (
            computing(share),
            torch.autocast(self._worker.device.type, dtype=dtype, enabled=recipe.amp),
        ):
            losses: dict[str, Tensor] = self._model(part)
        values = torch.stack([loss.float() for loss in losses.values()])
        micro_batches_per_worker = share.parts / self._worker.world_size
        self._scaler.scale(values.sum() / micro_batches_per_worker).backward()
        return _Done(part, share.first, seed, tuple(losses), values.detach())

    def _read(self, done: Sequence[_Done], *, step: int) -> dict[str, float]:
        """Return the mean loss terms of all micro-batches: the host waits for them once a step.

        Raises:
            TrainingError: a loss is not finite; the optimizer has not seen its gradient.
        """
        values = torch.stack([part.values for part in done]).tolist()
        for part, numbers in zip(done, values, strict=True):
            if not all(math.isfinite(number) for number in numbers):
                file = self._folder / f"not-finite-step-{step + 1:08d}-image-{part.first}.pt"
                terms = dict(zip(part.names, numbers, strict=True))
                raise not_finite(
                    self.state.model, part.batch, terms, step=step, seed=part.seed, file=file
                )
        means = [sum(numbers) / len(done) for numbers in zip(*values, strict=True)]
        return dict(zip(done[0].names, means, strict=True))

    def _stream(self, share: BatchShare) -> int:
        """Return which random numbers a micro-batch draws.

        All parts of a batch draw those of the whole and keep their own. Stochastic depth and
        dropout draw too and know nothing of that, so with them every part has its own numbers.
        """
        return share.first if _drops_at_random(self._params) else 0


def _drops_at_random(params: Params) -> bool:
    model = params.model
    dropout = model.name == "maskclippp" and model.maskclippp.attention_dropout > 0
    return params.clip.stochastic_depth or dropout


def seed_step(seed: int, step: int, stream: int) -> None:
    """Seed the points that the losses of one step draw."""
    high, low = np.random.SeedSequence([seed, step, stream]).generate_state(2).tolist()
    torch.manual_seed(high << 32 | low)


def _distribute(model: nn.Module, worker: Worker) -> nn.Module:
    if worker.world_size == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
