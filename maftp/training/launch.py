"""A training from beginning to end: what is finished, what is left to do, and who does it.

The run folder's `checkpoints/` is Ray Train's experiment folder. Workers write checkpoints there,
each in one go, and report them to Ray; whoever starts next (Ray after a lost worker, or the same
command after a lost driver) goes on from the newest.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cloudpickle
import torch
from safetensors import SafetensorError

from maftp.config import Params
from maftp.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    ParamsError,
    Preempted,
    TrainingError,
)
from maftp.files import check_output, sha256
from maftp.lock import locked
from maftp.losses.representation_compensation import check_width
from maftp.modeling.tensor_files import content_digest
from maftp.process_pool import process_pool
from maftp.tracking.manifest import collect_manifest, input_digests, training_digest
from maftp.tracking.mlflow_logger import MlflowLogger
from maftp.tracking.mlflow_store import MlflowStore
from maftp.training.checkpoint import newest_checkpoint, read_numbers
from maftp.training.distributed import Worker
from maftp.training.meter import progress_line
from maftp.training.mirror import Mirror, with_mirror
from maftp.training.ray_cluster import RayProcesses, set_environment, start_ray
from maftp.training.ray_workers import Job, Prepare, fit, validation
from maftp.training.run_folder import RUN, RunFolder
from maftp.training.slurm import Allocation, slurm_allocation
from maftp.training.worker_files import LastWords, RowFile, StopNote

logger = logging.getLogger(__name__)


def launch(
    params: Params,
    *,
    variant: str,
    seed: int,
    clip: Path,
    embeddings: Path,
    out: Path,
    others: Mapping[str, Path] = MappingProxyType({}),
    inputs: Sequence[Path] = (),
    prepare: Prepare | None = None,
    attempt: int = 1,
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
        others: weights of other models, by the arguments of `maftp.training.worker.prepare`.
        inputs: further files whose content the result depends on, such as the data's manifests.
        prepare: makes model and batches instead of `maftp.training.worker.prepare`.
        attempt: counted by whoever repeats what has failed; from the second on, what did not pass
            by itself is not tried again.

    Returns:
        Path of the weights.

    Raises:
        ParamsError: the parameters ask for what this machine cannot do.
        DataError: an input file is missing.
        CheckpointError: a file of weights or embeddings is damaged, or does not fit.
        OutputError: the folder cannot be written to.
        TrainingError: a loss is not finite, or another mistake that trying again does not mend.
        Interrupted: a worker, or Ray, was lost more often than is retried; or memory is short.
        Preempted: SIGTERM came, to this process or to a node; a checkpoint was written.
    """
    allocation = None if os.environ.get("RAY_ADDRESS") else slurm_allocation(os.environ)
    params = with_mirror(params)
    check_params(params, allocation)
    check_output(out, folder=True)
    digests = _file_digests([Path(clip), Path(embeddings), *inputs, *others.values()])
    digest = training_digest(params, seed=seed, inputs=list(digests.values()))
    folder = RunFolder(out, digest=digest)
    if _is_complete(folder):
        return folder.weights
    _repeat_a_mistake(folder, attempt)
    job = Job(
        params=params,
        seed=seed,
        clip=Path(clip).resolve(),
        embeddings=Path(embeddings).resolve(),
        others=dict(others),
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
    if not folder.begun:  # what a checkpoint was made with has been built before
        _rehearse(job)
    device = "cuda" if params.execution.gpus_per_worker else "cpu"
    manifest = collect_manifest(params, variant=variant, seed=seed, inputs=digests, device=device)
    manifest |= {RUN: digest}
    # What a killed workflow has started may still be at work here.
    lock = folder.path / ".train.lock"
    with locked(lock):
        if not _is_complete(folder):
            _train(job, folder, manifest, allocation)
        lock.unlink(missing_ok=True)
    return folder.weights


def _is_complete(folder: RunFolder) -> bool:
    """Tell whether nothing is left to do but to clear up, and do that."""
    if folder.complete:
        folder.clear()
        logger.info("%s is complete", folder.weights)
    return folder.complete


def _repeat_a_mistake(folder: RunFolder, attempt: int) -> None:
    """Raise again what ended the attempt before, unless it may pass by itself."""
    said = LastWords(folder.checkpoints).read() if attempt > 1 else None
    if said is not None and not isinstance(said, Interrupted):
        raise said


def _train(
    job: Job, folder: RunFolder, manifest: dict[str, Any], allocation: Allocation | None
) -> None:
    """Train from the last checkpoint on, and publish the results."""
    tracker = MlflowLogger(
        MlflowStore.from_params(job.params),
        variant=job.facts["variant"],
        seed=job.seed,
        folder=folder.path,
        digest=folder.digest,
    )
    folder.set_others_aside()
    mirror = job.params.resources.checkpoint_mirror
    if mirror:
        Mirror(mirror, run=folder.digest).pull(folder.checkpoints)
    folder.begin()
    try:
        _run(job, allocation, tracker, partial(tracker.start, manifest, folder.rows()))
    except BaseException:
        tracker.stop()
        raise
    folder.publish(manifest)
    tracker.finish(folder.history, folder.manifest)


def _file_digests(files: Sequence[Path]) -> dict[str, str]:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such file; run the step that makes it first")
    return input_digests(files, digest=_digest)


def _digest(file: Path) -> str:
    """Return a digest of what a file holds: equal tensors may lie in different bytes."""
    if file.suffix != ".safetensors":
        return sha256(file)
    try:
        return content_digest(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: damaged or cut short ({error}); remove it and run the step that makes it"
        ) from None


def _rehearse(job: Job) -> None:
    """Build once, before Ray starts, what every worker builds: a mistake is found at once.

    In a process of its own: here its libraries would take 280 MB for as long as training goes on.
    """
    with process_pool(1, partial(logging.captureWarnings, True)) as pool:
        try:
            pool.submit(_build, cloudpickle.dumps(job)).result()
        except BrokenProcessPool:
            raise Interrupted(
                "the process that builds the model was killed, perhaps for want of memory; run it"
                " again on a machine with more, or with less beside it"
            ) from None


def _build(pickled: bytes) -> None:
    job = cloudpickle.loads(pickled)
    model, _ = job.build(Worker())
    validation(job, model)


def _run(
    job: Job,
    allocation: Allocation | None,
    tracker: MlflowLogger,
    begin_tracking: Callable[[], None],
) -> None:
    """Train in Ray workers; print and track their rows meanwhile."""
    stop = StopNote(job.folder)
    stop.clear()
    LastWords(job.folder).make_room()
    set_environment(one_machine=allocation is None)
    import ray

    with ExitStack() as stack:
        processes = start_ray(job.params, allocation, stop, stack)
        stack.callback(processes.shutdown)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.enter_context(heeding_signals(stop))
        future = pool.submit(fit, job)
        try:
            begin_tracking()
            _follow(future, job, tracker, processes)
        except (KeyboardInterrupt, Interrupted):
            ray.shutdown()
            raise
        if not future.result():
            step = read_numbers(newest)["step"] if (newest := newest_checkpoint(job.folder)) else 0
            raise Preempted(f"asked to end; step {step} is saved, run it again to go on")


def _follow(future: Future[bool], job: Job, tracker: MlflowLogger, processes: RayProcesses) -> None:
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
        processes.check()
        time.sleep(0.5)


@contextmanager
def heeding_signals(stop: StopNote) -> Iterator[None]:
    """Let SIGTERM ask for a checkpoint, and a second one or Ctrl-C end workers and us at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        if number == signal.SIGTERM and not stop.asked():
            logger.warning("SIGTERM: writing a checkpoint")
            stop.ask()
            return
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_params(params: Params, allocation: Allocation | None = None) -> None:
    """Refuse parameters that this machine, or the nodes of this job, cannot train with.

    Args:
        params: one variant of an experiment.
        allocation: the job this process is part of.

    Raises:
        ParamsError: no GPU for mixed precision or for the workers, fewer nodes than wanted, or
            inputs too narrow for representation compensation.
    """
    _check_nodes(params, allocation)
    _check_gpus(params)
    if params.model.name == "maftp" and params.train.rc_weight > 0:
        _check_input_width(params)


def _check_nodes(params: Params, allocation: Allocation | None) -> None:
    wanted = params.resources.nodes
    found = 1 if allocation is None else len(allocation.nodes)
    if wanted > found and not os.environ.get("RAY_ADDRESS"):
        here = "this is one machine" if allocation is None else f"job {allocation.job} has {found}"
        raise ParamsError(
            f"resources.nodes: {wanted} nodes wanted, {here}; lower it, run the workflow with the "
            "slurm profile, or name a cluster in $RAY_ADDRESS"
        )


def _check_gpus(params: Params) -> None:
    recipe, execution = params.train, params.execution
    if recipe.amp and not execution.gpus_per_worker:
        raise ParamsError(
            f"train.amp: {recipe.amp_dtype} needs a GPU; set execution.gpus_per_worker to 1 or "
            "train.amp to false"
        )
    here = execution.workers // params.resources.nodes
    wanted, found = execution.gpus_per_worker * here, torch.cuda.device_count()
    if wanted > found and not os.environ.get("RAY_ADDRESS"):
        raise ParamsError(
            f"execution.gpus_per_worker: {here} workers want {wanted} GPUs, found {found}; "
            "lower execution.workers or gpus_per_worker, or name a cluster in $RAY_ADDRESS"
        )


def _check_input_width(params: Params) -> None:
    image = params.input.train
    side = image.short_side if image.mapper == "semantic" else image.crop_size
    padded = -(-side // 32)
    try:
        check_width(padded, scales=params.train.rc_scales)
    except TrainingError as error:
        raise ParamsError(str(error)) from None
