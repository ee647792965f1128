"""The training loop of one worker, and the model and data it starts from.

The loop is a plain function of a model and a source of batches; Ray Train only starts it. What a
step computes depends on (seed, step, rank) and the weights alone, so that a resumed run equals an
unbroken one.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maftp.errors import TrainingError
from maftp.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    save_weights,
    step_folder,
)
from maftp.training.meter import Meter, Row
from maftp.training.optimizer import build_optimizer, build_scheduler, clip_gradients
from maftp.training.run_folder import RUN, WEIGHTS

if TYPE_CHECKING:
    from maftp.config import Params

Batch = Sequence[Mapping[str, Any]]
BatchFactory = Callable[[int], Iterator[Batch]]
"""From the step to begin with to an endless iterator of this worker's batches."""
Report = Callable[[Row, Path | None], None]
"""Told of every row, and of the checkpoint written with it, on every worker."""


@dataclass(frozen=True)
class Place:
    """Where a worker stands among all workers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")


def prepare(
    params: Params, *, seed: int, clip: Path, embeddings: Path, place: Place
) -> tuple[nn.Module, BatchFactory]:
    """Build the model with its training vocabulary and the source of batches.

    Args:
        params: one variant of an experiment.
        seed: decides the initial weights, the order of samples and their augmentation.
        clip: CLIP's weight file.
        embeddings: cached text embeddings of the training vocabulary.
        place: which share of every batch is this worker's.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from maftp.data import layout, loader, mapper
    from maftp.data.catalog import load_catalog, register
    from maftp.modeling.build import build_model
    from maftp.modeling.text_classifier import TextEmbeddings

    catalog = load_catalog(params.data.catalog)
    register(catalog, layout.datasets_root(params.data.root))
    name = catalog.dataset(params.data.train).splits["train"].name
    names = MetadataCatalog.get(name).vocabulary
    torch.manual_seed(seed)
    model = build_model(
        params,
        num_training_classes=len(names),
        load_clip=clip,
        teacher=params.model.name == "maftp" and params.train.rc_weight > 0,
    )
    model.set_training_vocabulary(names, TextEmbeddings.load(embeddings))
    mappers = {"semantic": mapper.SemanticMapper, "panoptic": mapper.PanopticMapper}
    batches = partial(
        _batches_from,
        loader.training_batches,
        dataset=DatasetCatalog.get(name),
        mapper=mappers[params.input.train.mapper].from_params(params),
        batch_size=params.train.batch_size,
        seed=seed,
        rank=place.rank,
        world_size=place.world_size,
        num_workers=params.data.workers,
    )
    return model, batches


def _batches_from(
    training_batches: Callable[..., Iterator[Batch]], start: int, /, **options: Any
) -> Iterator[Batch]:
    dataset, mapper = options.pop("dataset"), options.pop("mapper")
    return training_batches(dataset, mapper, start_iteration=start, **options)


class Trainer:
    """Model, optimizer, schedule and loss scaler of one worker; does one step at a time."""

    def __init__(self, model: nn.Module, *, params: Params, place: Place) -> None:
        """Move the model to its device and join the other workers.

        Args:
            model: offers `parameter_groups()`; in training mode returns a dict of weighted losses.
            params: one variant of an experiment.
            place: this worker among all.
        """
        self._recipe = params.train
        self._place = place
        model.to(place.device).train()
        self._optimizer = build_optimizer(model, model.parameter_groups(), params=params)
        self._scheduler = build_scheduler(self._optimizer, params=params)
        self._scaler = torch.amp.GradScaler(place.device.type, enabled=params.train.amp)
        self._model = _distribute(model, place)
        parts = {
            "optimizer": self._optimizer, "scheduler": self._scheduler, "scaler": self._scaler
        }  # fmt: skip
        self.state = TrainingState(model=model, parts=parts)

    @property
    def learning_rate(self) -> float:
        """Rate of everything but the CLIP trunk at the next step."""
        return max(self._scheduler.get_last_lr())

    def step(self, batch: Batch, *, step: int) -> dict[str, float]:
        """Do the 0-based `step`; return the weighted loss terms of this worker.

        Raises:
            TrainingError: a loss is not finite; names the step, the terms and the image files.
        """
        with torch.autocast(self._place.device.type, dtype=torch.float16, enabled=self._recipe.amp):
            losses: dict[str, Tensor] = self._model(batch)
        values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
        terms = dict(zip(losses, values, strict=True))
        if not all(math.isfinite(value) for value in values):
            raise TrainingError(_not_finite(step, terms, batch))
        self._scaler.scale(sum(losses.values())).backward()
        self._scaler.unscale_(self._optimizer)
        clip_gradients(self._optimizer, max_norm=self._recipe.clip_gradients)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._scheduler.step()
        return terms


def train(
    model: nn.Module,
    batches: BatchFactory,
    *,
    params: Params,
    seed: int,
    folder: Path,
    report: Report,
    facts: Mapping[str, Any],
    place: Place,
) -> None:
    """Train to the last step, from the newest checkpoint in `folder` when there is one.

    Args:
        model: see `Trainer`.
        batches: source of this worker's batches.
        params: one variant of an experiment.
        seed: of the random points; they differ from step to step and worker to worker.
        folder: for checkpoints and, at the end, `weights.safetensors`; shared by all workers.
        report: called at every progress line on every worker.
        facts: noted in the final weights; "run" among them ties checkpoints to this run.
        place: this worker among all.

    Raises:
        TrainingError: a loss is not finite.
        CheckpointError: the newest checkpoint is damaged or of another model.
    """
    recipe = params.train
    torch.set_num_threads(recipe.cpus_per_worker)
    trainer = Trainer(model, params=params, place=place)
    numbers = _resume(folder, trainer.state) | {RUN: facts[RUN]}
    meter = Meter(batch_size=recipe.batch_size, seconds=numbers["seconds"])
    source = batches(numbers["step"])
    for step in range(numbers["step"], recipe.iterations):
        asked = time.monotonic()
        batch = next(source)
        waited = time.monotonic() - asked
        seed_step(seed, step, place.rank)
        learning_rate = trainer.learning_rate
        meter.add(trainer.step(batch, step=step), waited=waited)
        done = step + 1
        saves = done % recipe.checkpoint_period == 0 or done == recipe.iterations
        if saves or done % recipe.log_period == 0:
            # Every checkpoint closes a row, so that no half row has to be saved with it.
            row = meter.close(step=done, learning_rate=learning_rate, device=place.device)
            numbers["history"].append(row)
            numbers |= {"step": done, "seconds": row["seconds"]}
            path = step_folder(folder, done) if saves else None
            if path is not None and place.rank == 0:
                numbers |= _measures(model, numbers, place.device)
                save_checkpoint(path, trainer.state, numbers)
                prune_checkpoints(folder, keep=recipe.checkpoints_kept)
            report(row, path)
    if place.rank == 0:
        save_weights(folder / WEIGHTS, model, facts)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the points that the losses of one step on one worker draw."""
    high, low = np.random.SeedSequence([seed, step, rank]).generate_state(2).tolist()
    torch.manual_seed(high << 32 | low)


def _resume(folder: Path, state: TrainingState) -> dict[str, Any]:
    path = newest_checkpoint(folder)
    if path is None:
        return {"step": 0, "seconds": 0.0, "history": []}
    return load_checkpoint(path, state)


def _distribute(model: nn.Module, place: Place) -> nn.Module:
    if place.world_size == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def _not_finite(step: int, terms: Mapping[str, float], batch: Batch) -> str:
    wrong = ", ".join(
        f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)
    )
    files = ", ".join(str(item.get("file_name", "an image without file name")) for item in batch)
    return (
        f"step {step + 1}: the loss is not finite ({wrong}) on {files}; look at these images and "
        "their labels, or lower train.learning_rate"
    )


def _measures(model: nn.Module, numbers: Mapping[str, Any], device: torch.device) -> dict[str, int]:
    """Return trained elements and this worker's peak memory in bytes, of interrupted parts too."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak_memory_bytes": max(peak, numbers.get("peak_memory_bytes", 0)),
    }
