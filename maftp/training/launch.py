"""Ray Train around the loop of a worker: where it runs, where it stores, what happens on failure.

The run folder's `checkpoints/` is Ray Train's experiment folder. Workers write checkpoints there,
each in one go, and report them to Ray; whoever starts next (Ray after a lost worker, or the same
command after a lost driver) goes on from the newest.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)
from torch import nn

from maftp.config import Params
from maftp.errors import DataError, MaftpError, Preempted, TrainingError
from maftp.ops import backends
from maftp.tracking.manifest import collect_manifest, input_digests, training_digest
from maftp.tracking.mlflow_logger import MlflowLogger
from maftp.training.allocation import Allocation, NodeResources, ray_over, slurm_allocation
from maftp.training.checkpoint import newest_checkpoint, read_numbers
from maftp.training.interruption import StopNote, heeding_signals
from maftp.training.meter import Row, progress_line
from maftp.training.mirror import Mirror
from maftp.training.place import Place
from maftp.training.preflight import check_params
from maftp.training.ray_environment import set_environment
from maftp.training.row_file import RowFile
from maftp.training.run_folder import RUN, WEIGHTS, RunFolder
from maftp.training.worker import BatchFactory, Validate, prepare, train

logger = logging.getLogger(__name__)

Prepare = Callable[..., tuple[nn.Module, BatchFactory]]
"""Called as `maftp.training.worker.prepare` is."""

_FAILURE = "failure.txt"
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's smallest is 75 MiB; nothing large goes through it
_STARTS = 3
_NODES_SECONDS = 300.0
"""Longest wait for the nodes of an allocation."""


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


def launch(
    params: Params,
    *,
    variant: str,
    seed: int,
    clip: Path,
    embeddings: Path,
    out: Path,
    inputs: Sequence[Path] = (),
    prepare: Prepare = prepare,
) -> Path:
    """Train one variant with one seed, or finish what an interrupted call of the same began.

    Writes `history.csv`, `manifest.json` and, last, `weights.safetensors` into `out`. Nothing is
    done when the weights are there and were made of the same parameters, inputs and code.

    Args:
        params: parameters of the variant, with its overrides applied.
        variant: its name.
        seed: decides weights, samples, augmentation and random points.
        clip: CLIP's weight file.
        embeddings: cached text embeddings of the training vocabulary.
        out: folder of the run.
        inputs: further files whose content the result depends on, such as the data's manifests.
        prepare: makes model and batches.

    Returns:
        Path of the weights.

    Raises:
        ParamsError: the parameters ask for what this machine cannot do.
        DataError: an input file is missing.
        TrainingError: a worker stopped on a user's mistake, or was lost more often than is retried.
        Preempted: SIGTERM came, to this process or to a node; a checkpoint was written.
    """
    allocation = None if os.environ.get("RAY_ADDRESS") else slurm_allocation(os.environ)
    check_params(params, allocation)
    digests = _file_digests([Path(clip), Path(embeddings), *inputs])
    digest = training_digest(params, seed=seed, inputs=list(digests.values()))
    folder = RunFolder(out, digest=digest)
    if folder.complete:
        folder.clear()
        logger.info("%s is complete", folder.weights)
        return folder.weights
    device = "cuda" if params.execution.gpus_per_worker else "cpu"
    manifest = collect_manifest(params, variant=variant, seed=seed, inputs=digests, device=device)
    manifest[RUN] = digest
    manifest["operators"] = {"ms_deform_attn": backends.describe(device)}
    tracker = MlflowLogger.from_params(
        params, variant=variant, seed=seed, folder=folder.path, digest=digest
    )
    folder.set_others_aside()
    if params.resources.checkpoint_mirror:
        Mirror(params.resources.checkpoint_mirror, run=digest).pull(folder.checkpoints)
    folder.begin()
    job = Job(
        params=params,
        seed=seed,
        clip=Path(clip).resolve(),
        embeddings=Path(embeddings).resolve(),
        folder=folder.checkpoints,
        facts={
            "experiment": params.experiment,
            "variant": variant,
            "seed": seed,
            "clip": params.clip.model,
            RUN: digest,
        },
        working_directory=Path.cwd(),
        prepare=prepare,
    )
    try:
        _run(job, allocation, tracker, partial(tracker.start, manifest, folder.rows()))
    except BaseException:
        tracker.stop()
        raise
    folder.publish(manifest)
    tracker.finish(folder.history, folder.manifest)
    return folder.weights


def _file_digests(files: Sequence[Path]) -> dict[str, str]:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such file; run the step that makes it first")
    return input_digests(files)


def _run(
    job: Job,
    allocation: Allocation | None,
    tracker: MlflowLogger,
    begin_tracking: Callable[[], None],
) -> None:
    """Train in Ray workers; print and track their rows meanwhile."""
    stop = StopNote(job.folder)
    stop.clear()
    set_environment(one_machine=allocation is None)
    import ray

    with ExitStack() as stack:
        _start_ray(job.params, allocation, stop, stack)
        stack.callback(ray.shutdown)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.enter_context(heeding_signals(stop))
        future = pool.submit(_fit, job)
        try:
            begin_tracking()
            _follow(future, job, tracker)
        except KeyboardInterrupt:
            ray.shutdown()
            raise
        if not future.result():
            step = read_numbers(newest)["step"] if (newest := newest_checkpoint(job.folder)) else 0
            raise Preempted(f"asked to end; step {step} is saved, run it again to go on")


def _start_ray(
    params: Params, allocation: Allocation | None, stop: StopNote, stack: ExitStack
) -> None:
    """Join the cluster of $RAY_ADDRESS, or start one that dies with us: of the job's nodes or here.

    Args:
        params: of the training.
        allocation: the Slurm job this process is part of.
        stop: is asked when Slurm wants the job to end.
        stack: ends what was started.
    """
    import ray

    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    execution = params.execution
    workers = execution.workers // params.resources.nodes
    cores, gpus = workers * execution.cpus_per_worker, workers * execution.gpus_per_worker
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], **common)
        return
    if allocation is not None:
        nodes = NodeResources(cpus=cores, gpus=gpus)
        address = stack.enter_context(ray_over(allocation, nodes, signalled=stop.ask))
        _join_nodes(address, len(allocation.nodes), **common)
        return
    attempts = Retrying(
        stop=stop_after_attempt(_STARTS), before_sleep=lambda _: ray.shutdown(), reraise=True
    )
    try:
        attempts(
            ray.init,
            address="local",
            num_cpus=max(cores, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **common,
        )
    except Exception as error:  # Ray raises a plain one when this machine is too slow
        reason = " ".join(str(error).split())
        raise TrainingError(f"Ray did not start ({reason}); is the machine overloaded?") from error


def _join_nodes(address: str, count: int, **options: Any) -> None:
    """Join Ray at `address` and wait until so many nodes are part of it."""
    import ray

    end = time.monotonic() + _NODES_SECONDS
    attempts = Retrying(
        stop=stop_after_delay(_NODES_SECONDS),
        wait=wait_fixed(1),
        retry=retry_if_exception_type(ConnectionError),
        reraise=True,
    )
    try:
        attempts(ray.init, address=address, **options)
    except ConnectionError as error:
        raise TrainingError(
            f"Ray did not start at {address} ({error}); see the job's log"
        ) from None
    while (found := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > end:
            ray.shutdown()
            raise TrainingError(f"Ray started on {found} of {count} nodes; see the job's log")
        time.sleep(0.5)


def _fit(job: Job) -> bool:
    """Train; return False when the workers were asked to stop before the end."""
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer

    execution = job.params.execution
    resources = {"CPU": execution.cpus_per_worker}
    if execution.gpus_per_worker:
        resources["GPU"] = execution.gpus_per_worker
    trainer = TorchTrainer(
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
    mistake = job.folder / _FAILURE
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if mistake.exists():
            raise TrainingError(mistake.read_text()) from None
        raise TrainingError(_worker_lost(str(error))) from error
    return (job.folder / WEIGHTS).exists()


def _worker_lost(reason: str) -> str:
    last = reason.strip().rpartition("\n")[2].strip()
    advice = "run it again to go on"
    if re.search(r"out of memory|OOM|OutOfMemory", reason):
        advice += (
            ", with a lower execution.micro_batch_size or more memory (resources.train.memory_mb)"
        )
    return f"a worker was lost ({last}); {advice}"


def _work(config: Mapping[str, Job]) -> None:
    """Run in every Ray Train worker."""
    import ray.train

    job = config["job"]
    os.chdir(job.working_directory)
    context = ray.train.get_context()
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    mistake = job.folder / _FAILURE
    if mistake.exists():
        raise TrainingError(mistake.read_text())  # trying again does not help
    try:
        if place.rank == 0:
            RowFile(job.folder).note_restart()
        model, batches = job.prepare(
            job.params, seed=job.seed, clip=job.clip, embeddings=job.embeddings, place=place
        )
        train(
            model,
            batches,
            params=job.params,
            seed=job.seed,
            folder=job.folder,
            report=_reporter(job, place),
            facts=job.facts,
            place=place,
            asked_to_stop=StopNote(job.folder).asked_lately,
            validate=_validation(job, model),
        )
    except MaftpError as error:
        mistake.write_text(str(error))
        raise


def _validation(job: Job, model: nn.Module) -> Validate | None:
    if job.params.train.validation is None:
        return None
    from maftp.training.validation import Validation  # seconds to import, for workers alone

    return Validation.from_params(model, job.params, folder=job.folder.parent)


def _reporter(job: Job, place: Place) -> Callable[[Row, Path | None], None]:
    """Return what hands rows to the driver, through a file, and checkpoints to Ray."""
    import ray.train

    rows = RowFile(job.folder)

    def report(row: Row, checkpoint: Path | None) -> None:
        if place.rank == 0:
            rows.add(row)
        if checkpoint is not None:
            ray.train.report(
                row,
                checkpoint=ray.train.Checkpoint(checkpoint) if place.rank == 0 else None,
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
            )

    return report


def _follow(future: Future[bool], job: Job, tracker: MlflowLogger) -> None:
    """Print and track rows as they come, until training ends."""
    recipe = job.params.train
    rows = RowFile(job.folder)
    while True:
        ended = future.done()
        for row in rows.fresh():
            if isinstance(row, str):
                logger.info("%s", row)
            else:
                logger.info(
                    "%s", progress_line(row, total=recipe.iterations, batch=recipe.batch_size)
                )
                tracker.log_row(row)
        if ended:
            return
        time.sleep(0.5)
