"""Ray Train around the loop of a worker: what each worker does, and what their end means."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maftp.errors import FULL_DISK, MaftpError, TrainingError, describe_os_error
from maftp.memory import keep_freed_memory
from maftp.training.distributed import Worker, host_group
from maftp.training.failure import describe_failure
from maftp.training.meter import Row
from maftp.training.run_folder import WEIGHTS
from maftp.training.worker_files import LastWords, RowFile, StopNote

if TYPE_CHECKING:
    from torch import nn

    from maftp.config import Params
    from maftp.training.worker import BatchFactory, Validate

Prepare = Callable[..., "tuple[nn.Module, BatchFactory]"]
"""Called as `maftp.training.worker.prepare` is."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    params: Params
    seed: int
    clip: Path
    embeddings: Path
    others: Mapping[str, Path]
    """Weights of other models, by arguments of `maftp.training.worker.prepare`."""
    folder: Path
    """The run's checkpoints."""
    facts: Mapping[str, Any]
    """Noted in the final weights."""
    working_directory: Path
    """Relative paths of the parameters start here."""
    prepare: Prepare | None
    """In place of `maftp.training.worker.prepare`."""

    def build(self, worker: Worker) -> tuple[nn.Module, BatchFactory]:
        """Make the model, and the source of this worker's batches."""
        from maftp.training.worker import prepare  # the driver does without its libraries

        return (self.prepare or prepare)(
            self.params,
            seed=self.seed,
            clip=self.clip,
            embeddings=self.embeddings,
            worker=worker,
            **self.others,
        )


def fit(job: Job) -> bool:
    """Train; return False when the workers were asked to stop before the end.

    Raises:
        TrainingError: whatever ended it, in a sentence.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        """Without those of Ray Train's own callbacks that start a process for nothing."""

        def _create_default_callbacks(self) -> list[Any]:
            unused = _unused_callbacks()
            callbacks = super()._create_default_callbacks()
            return [c for c in callbacks if type(c).__name__ not in unused]

    execution = job.params.execution
    resources = {"CPU": execution.cpus_per_worker}
    if execution.gpus_per_worker:
        resources["GPU"] = execution.gpus_per_worker
    trainer = Trainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=execution.workers,
            use_gpu=execution.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy="SPREAD" if job.params.resources.nodes > 1 else "PACK",
        ),
        torch_config=TorchConfig(backend="nccl" if execution.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder.parent),
            # Workers prune: Ray does not know checkpoints from before a lost driver.
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            failure_config=FailureConfig(max_failures=job.params.resources.worker_retries),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's own classes have no common ancestor but this
        words = LastWords(job.folder)
        if (said := words.read()) is None:
            said = describe_failure(error, job.params, folder=job.folder)
            words.say(said)
        raise said from error
    return (job.folder / WEIGHTS).exists()


def _unused_callbacks() -> set[str]:
    """Name what serves Ray's datasets and, on a Ray that ends with us, what clears up after us.

    The second asks the dashboard, which we do without, and waits twelve seconds for no answer.
    """
    if os.environ.get("RAY_ADDRESS"):
        return {"DatasetsCallback"}
    return {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def _work(config: Mapping[str, Job]) -> None:
    """Run in every Ray Train worker."""
    import ray.train

    job = config["job"]
    keep_freed_memory()
    os.chdir(job.working_directory)
    context = ray.train.get_context()
    worker = Worker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        host=host_group() if context.get_world_size() > 1 else None,
    )
    words = LastWords(job.folder)
    if (said := words.read()) is not None:
        raise said  # trying again does not help
    try:
        _train(job, worker)
    except MaftpError as error:
        words.say(error)
        raise
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        said = TrainingError(
            f"{describe_os_error(error)}; training goes on from its last checkpoint"
        )
        words.say(said)
        raise said from error


def _train(job: Job, worker: Worker) -> None:
    from maftp.training.worker import train

    if worker.rank == 0:
        RowFile(job.folder).note_restart()
    model, batches = job.build(worker)
    train(
        model,
        batches,
        params=job.params,
        seed=job.seed,
        folder=job.folder,
        report=_reporter(job, worker),
        facts=job.facts,
        worker=worker,
        asked_to_stop=StopNote(job.folder).asked_lately,
        validate=validation(job, model),
    )


def validation(job: Job, model: nn.Module) -> Validate | None:
    """Return what scores the model meanwhile, where the parameters want that.

    Raises:
        DataError: the benchmark is not known or not converted.
    """
    if job.params.train.validation is None:
        return None
    from maftp.training.validation import Validation  # seconds to import

    return Validation.from_params(model, job.params, folder=job.folder.parent)


def _reporter(job: Job, worker: Worker) -> Callable[[Row, Path | None], None]:
    """Return what hands rows to the driver, through a file, and checkpoints to Ray."""
    import ray.train

    rows = RowFile(job.folder)

    def report(row: Row, checkpoint: Path | None) -> None:
        if worker.rank == 0:
            rows.add(row)
        if checkpoint is not None:
            ray.train.report(
                row,
                checkpoint=ray.train.Checkpoint(checkpoint) if worker.rank == 0 else None,
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
            )

    return report
