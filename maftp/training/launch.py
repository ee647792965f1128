"""Ray Train around the loop of a worker: where it runs, where it stores, what happens on failure.

The run folder's `checkpoints/` is Ray Train's experiment folder. Workers write checkpoints there,
each in one go, and report them to Ray; whoever starts next (Ray after a lost worker, or the same
command after a lost driver) goes on from the newest.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tenacity import Retrying, stop_after_attempt
from torch import nn

from maftp.config import Params
from maftp.errors import DataError, MaftpError, TrainingError
from maftp.files import sha256
from maftp.ops import backends
from maftp.tracking.manifest import collect_manifest, training_digest
from maftp.tracking.mlflow_logger import MlflowLogger
from maftp.training.meter import Row, progress_line
from maftp.training.preflight import check_params
from maftp.training.run_folder import RUN, RunFolder
from maftp.training.worker import BatchFactory, Place, prepare, train

logger = logging.getLogger(__name__)

Prepare = Callable[..., tuple[nn.Module, BatchFactory]]
"""Called as `maftp.training.worker.prepare` is."""

_ROWS, _FAILURE = "rows.jsonl", "failure.txt"
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's smallest is 75 MiB; nothing large goes through it
_STARTS = 3
_RETRIES = 1
"""Of workers that were lost."""

_RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave $CUDA_VISIBLE_DEVICES alone without GPUs
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # after an interrupt no call shall start another cluster
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
}
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine: listen on the loopback address only
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves training beside anything else
    "RAY_prestart_worker_first_driver": "0",  # Train's processes have an environment of their own
    # A busy machine starts processes slowly; Ray's patience is made for a cluster's nodes.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}


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
    """
    check_params(params)
    digests = _file_digests([Path(clip), Path(embeddings), *inputs])
    digest = training_digest(params, seed=seed, inputs=list(digests.values()))
    folder = RunFolder(out, digest=digest)
    if folder.complete:
        folder.clear()
        logger.info("%s is complete", folder.weights)
        return folder.weights
    device = "cuda" if params.train.gpus_per_worker else "cpu"
    manifest = collect_manifest(params, variant=variant, seed=seed, inputs=digests, device=device)
    manifest[RUN] = digest
    manifest["operators"] = {"ms_deform_attn": backends.describe(device)}
    tracker = MlflowLogger.from_params(
        params, variant=variant, seed=seed, folder=folder.path, digest=digest
    )
    folder.begin()
    begin_tracking = partial(tracker.start, manifest, folder.rows())
    if folder.trained:
        begin_tracking()
    else:
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
        _run(job, tracker, begin_tracking)
    folder.publish(manifest)
    tracker.finish(folder.history, folder.manifest)
    return folder.weights


def _file_digests(files: Sequence[Path]) -> dict[str, str]:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such file; run the step that makes it first")
    return {str(file): sha256(file) for file in files}


def _run(job: Job, tracker: MlflowLogger, begin_tracking: Callable[[], None]) -> None:
    """Train in Ray workers; print and track their rows meanwhile."""
    _set_environment()
    import ray

    _start_ray(job.params)
    try:
        with ThreadPoolExecutor(1) as pool, _signals():
            future = pool.submit(_fit, job)
            try:
                begin_tracking()  # takes seconds, as starting the workers does
                _follow(future, job, tracker)
            except KeyboardInterrupt:
                ray.shutdown()
                raise
            future.result()
    finally:
        ray.shutdown()


def _set_environment() -> None:
    """Set what Ray reads on import or start; what the user has set stays."""
    values = _RAY_ENVIRONMENT
    if not os.environ.get("RAY_ADDRESS"):
        # A password of this run alone: Ray would keep one in the home folder, and say so.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        values = values | _LOCAL_ENVIRONMENT | token
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _start_ray(params: Params) -> None:
    """Join the cluster of $RAY_ADDRESS, or start one of this machine that dies with us."""
    import ray

    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], **common)
        return
    cores = params.train.workers * params.train.cpus_per_worker
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


def _fit(job: Job) -> None:
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchConfig, TorchTrainer

    recipe = job.params.train
    resources = {"CPU": recipe.cpus_per_worker}
    if recipe.gpus_per_worker:
        resources["GPU"] = recipe.gpus_per_worker
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=recipe.workers,
            use_gpu=recipe.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        torch_config=TorchConfig(backend="nccl" if recipe.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder.parent),
            # Workers prune: Ray does not know checkpoints from before a lost driver.
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            failure_config=FailureConfig(max_failures=_RETRIES),
        ),
    )
    mistake = job.folder / _FAILURE
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if mistake.exists():
            raise TrainingError(mistake.read_text()) from None
        last = str(error).strip().rpartition("\n")[2].strip()
        raise TrainingError(f"a worker was lost ({last}); run it again to go on") from error


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
        )
    except MaftpError as error:
        mistake.write_text(str(error))
        raise


def _reporter(job: Job, place: Place) -> Callable[[Row, Path | None], None]:
    """Return what hands rows to the driver, through a file, and checkpoints to Ray."""
    import ray.train

    def report(row: Row, checkpoint: Path | None) -> None:
        if place.rank == 0:
            with open(job.folder / _ROWS, "a") as file:
                file.write(json.dumps(row) + "\n")
        if checkpoint is not None:
            ray.train.report(
                row,
                checkpoint=ray.train.Checkpoint(checkpoint) if place.rank == 0 else None,
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
            )

    return report


def _follow(future: Future[None], job: Job, tracker: MlflowLogger) -> None:
    """Print and track rows as they come, until training ends."""
    recipe = job.params.train
    path, position = job.folder / _ROWS, 0
    while True:
        ended = future.done()
        if path.exists():
            with open(path) as file:
                file.seek(position)
                lines = [line for line in file if line.endswith("\n")]
            position += sum(len(line) for line in lines)
            for row in map(json.loads, lines):
                logger.info(
                    "%s", progress_line(row, total=recipe.iterations, batch=recipe.batch_size)
                )
                tracker.log_row(row)
        if ended:
            return
        time.sleep(0.5)


@contextmanager
def _signals() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that workers end with this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
