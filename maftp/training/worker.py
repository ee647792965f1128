"""The training loop of one worker, and the model and data it starts from.

The loop is a plain function of a model and a source of batches; Ray Train only starts it. A resumed
run equals an unbroken one to the bit; another number of workers gives the same samples, and losses
that differ by rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maftp.errors import DataError, ParamsError
from maftp.modeling.precision import allow_tf32
from maftp.training.checkpoint import BEST, save_weights
from maftp.training.distributed import Batch, NextAction, Worker, gather_batch
from maftp.training.journal import Journal
from maftp.training.meter import Row
from maftp.training.run_folder import RUN, WEIGHTS
from maftp.training.trainer import Trainer

if TYPE_CHECKING:
    from maftp.config import Params

BatchFactory = Callable[[int], Iterator[Batch]]
"""From the step to begin with to an endless iterator of this worker's batches."""
Validate = Callable[[int], float | None]
"""From the steps done to a score in percent, on the first worker; None on the others."""
Report = Callable[[Row, Path | None], None]
"""Told of every row, and of the checkpoint written with it, on every worker."""


def prepare(
    params: Params,
    *,
    seed: int,
    clip: Path,
    embeddings: Path,
    worker: Worker,
    proposals: Path | None = None,
    start: Path | None = None,
    student: Path | None = None,
) -> tuple[nn.Module, BatchFactory]:
    """Build the model with its training vocabulary and the source of batches.

    Args:
        params: one variant of an experiment.
        seed: decides the initial weights, the order of samples and their augmentation.
        clip: CLIP's weight file.
        embeddings: cached text embeddings of the training vocabulary.
        worker: which share of every batch is this worker's.
        proposals: weights of the frozen model that proposes masks, for methods that have one.
        start: weights that training starts from; of a Mask-Adapter the adapter alone.
        student: EVA-CLIP's weights, where the student is one.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from maftp.data import layout, loader
    from maftp.data.catalog import load_catalog
    from maftp.data.mapper import PanopticMapper, SemanticMapper
    from maftp.data.records import register
    from maftp.data.semantic_crops import SemanticCrop, SemanticJitter
    from maftp.modeling.build import build_model
    from maftp.modeling.maskclippp_eva import load_student
    from maftp.modeling.proposals import load_proposals, load_start
    from maftp.modeling.text_classifier import TextEmbeddings

    catalog = load_catalog(params.data.catalog, params.data.own)
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
    if proposals is not None:
        load_proposals(model, proposals)
    elif model.takes_proposals:
        raise ParamsError(
            f"train.proposals: {params.model.name} names the masks of another model; name the "
            "checkpoint of a MAFT+ or an FC-CLIP"
        )
    if start is not None:
        load_start(model, start)
    if student is not None:
        load_student(model, student)
    try:
        model.set_training_vocabulary(names, TextEmbeddings.load(embeddings))
    except DataError as error:
        raise DataError(f"{embeddings}: {error}") from None
    mappers = {
        "semantic": SemanticMapper,
        "panoptic": PanopticMapper,
        "semantic_crop": SemanticCrop,
        "semantic_jitter": SemanticJitter,
    }
    batches = partial(
        _batches_from,
        loader.training_batches,
        dataset=DatasetCatalog.get(name),
        mapper=mappers[params.input.train.mapper].from_params(params),
        batch_size=params.train.batch_size,
        seed=seed,
        rank=worker.rank,
        world_size=worker.world_size,
        num_workers=params.execution.loader_workers,
        pin_memory=worker.device.type == "cuda",
    )
    return model, batches


def _batches_from(
    training_batches: Callable[..., Iterator[Batch]], start: int, /, **options: Any
) -> Iterator[Batch]:
    dataset, mapper = options.pop("dataset"), options.pop("mapper")
    return training_batches(dataset, mapper, start_iteration=start, **options)


def train(
    model: nn.Module,
    batches: BatchFactory,
    *,
    params: Params,
    seed: int,
    folder: Path,
    report: Report,
    facts: Mapping[str, Any],
    worker: Worker,
    asked_to_stop: Callable[[], bool] = lambda: False,
    validate: Validate | None = None,
) -> bool:
    """Train to the last step, from the newest checkpoint in `folder` when there is one.

    Args:
        model: see `Trainer`.
        batches: source of this worker's batches.
        params: one variant of an experiment.
        seed: of the random points; they differ from step to step.
        folder: for checkpoints and, at the end, `weights.safetensors`; shared by all workers.
        report: called at every progress line on every worker.
        facts: noted in the final weights; "run" among them ties checkpoints to this run.
        worker: this worker among all.
        asked_to_stop: the first worker calls it before every step; all stop when it says so.
        validate: scores the model every `params.train.validation.period` steps and at the end; the
            weights that score best are kept in `best.safetensors`.

    Returns:
        True after the last step, False when training was asked to stop; a checkpoint holds it.

    Raises:
        TrainingError: a loss is not finite, gradients always overflow, or memory does not suffice.
        CheckpointError: the newest checkpoint is damaged or of another model.
    """
    recipe, execution = params.train, params.execution
    torch.set_num_threads(execution.cpus_per_worker)
    allow_tf32(recipe.tf32)
    trainer = Trainer(model, params=params, seed=seed, folder=folder.parent, worker=worker)
    journal = Journal(trainer.state, folder=folder, params=params, worker=worker, run=facts[RUN])
    source = batches(journal.step)
    for step in range(journal.step, recipe.iterations):
        asked = time.monotonic()
        batch = next(source)
        waited = time.monotonic() - asked
        whole = gather_batch(batch, action=journal.next_action(asked_to_stop), worker=worker)
        if whole.action is not NextAction.CONTINUE:
            journal.save_between_rows(step)
        if whole.action is NextAction.STOP:
            return False
        learning_rate = trainer.learning_rate
        terms, norm = trainer.step(batch, whole, step=step)
        journal.add(terms, norm=norm, waited=waited, step=step + 1)
        done = step + 1
        last = done == recipe.iterations
        saves = last or done % execution.checkpoint_period == 0
        validates = validate is not None and (last or done % recipe.validation.period == 0)
        if saves or validates or done % execution.log_period == 0:
            trainer.refuse_endless_overflow(done)
            row = journal.close_row(step=done, learning_rate=learning_rate)
            if validates and journal.note_score(row, validate(done)):
                save_weights(folder / BEST, model, facts)
            report(row, journal.save(done) if saves else None)
    if worker.rank == 0:
        save_weights(folder / WEIGHTS, model, facts)
    return True
