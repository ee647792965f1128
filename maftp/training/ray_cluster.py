"""The Ray that trainings run in: a cluster to join, the nodes of a Slurm job, or this machine."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import psutil
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from maftp.errors import Interrupted, TrainingError
from maftp.training.slurm import Allocation, NodeResources, ray_over
from maftp.training.worker_files import StopNote

if TYPE_CHECKING:
    from maftp.config import Params

logger = logging.getLogger(__name__)

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
_OWN_CLUSTER = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves training beside anything else
    "RAY_prestart_worker_first_driver": "0",  # Train's processes have an environment of their own
    # A busy machine starts processes slowly; Ray's patience is made for a cluster's nodes.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
_ONE_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # listen on the loopback address only
_LONGEST = 36
"""Bytes of a folder for sockets: their paths hold 107, of which Ray's names take 71."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's smallest is 75 MiB; nothing large goes through it
_STARTS = 3
_END_SECONDS = 20.0
"""Longest wait for the processes of a Ray that has been shut down."""
_NODES_SECONDS = 300.0
"""Longest wait for the nodes of an allocation."""


def use_short_temporary_folder(folders: tuple[str, ...] = _SHORT_FOLDERS) -> None:
    """Put sockets where their paths fit: behind a long $TMPDIR Ray fails and data loaders hang.

    Args:
        folders: taken instead, the first that can be written to.

    Raises:
        TrainingError: none of them can.
    """
    for name in ("RAY_TMPDIR", "TMPDIR"):
        long = os.environ.get(name, "")
        if len(os.fsencode(long)) <= _LONGEST:
            continue
        usable = (folder for folder in folders if os.access(folder, os.W_OK | os.X_OK))
        short = next(usable, None)
        if short is None:
            raise TrainingError(
                f"${name}: {long} is too long for the sockets of Ray and of data loaders; set it "
                f"to a folder of at most {_LONGEST} letters"
            )
        logger.info("$%s is too long for sockets; using %s", name, short)
        os.environ[name] = short
        tempfile.tempdir = None  # read anew


def set_environment(*, one_machine: bool) -> None:
    """Set what Ray reads on import or start; what the user has set stays.

    Args:
        one_machine: whether a cluster that is started here has no other nodes.
    """
    use_short_temporary_folder()
    values = _RAY_ENVIRONMENT
    if not os.environ.get("RAY_ADDRESS"):
        # A password of this run alone: Ray would keep one in the home folder, and say so.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        values = values | _OWN_CLUSTER | token | (_ONE_MACHINE if one_machine else {})
    for name, value in values.items():
        os.environ.setdefault(name, value)


def start_ray(
    params: Params, allocation: Allocation | None, stop: StopNote, stack: ExitStack
) -> RayProcesses:
    """Join the cluster of $RAY_ADDRESS, or start one that dies with us: of the job's nodes or here.

    Args:
        params: of the training.
        allocation: the Slurm job this process is part of.
        stop: is asked when Slurm wants the job to end.
        stack: ends what was started.

    Returns:
        Those processes of Ray that this one has started itself.
    """
    import ray

    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    execution = params.execution
    workers = execution.workers // params.resources.nodes
    cores, gpus = workers * execution.cpus_per_worker, workers * execution.gpus_per_worker
    before = psutil.Process().children()
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], **common)
    elif allocation is not None:
        nodes = NodeResources(cpus=cores, gpus=gpus)
        address = stack.enter_context(ray_over(allocation, nodes, signalled=stop.ask))
        _join_nodes(address, len(allocation.nodes), **common)
    else:
        _start_here(cores, **common)
        return RayProcesses([p for p in psutil.Process().children() if p not in before])
    return RayProcesses([])


def _start_here(cores: int, **options: Any) -> None:
    import ray

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
            **options,
        )
    except Exception as error:  # Ray raises a plain one when this machine is too slow
        reason = " ".join(str(error).split())
        raise Interrupted(f"Ray did not start ({reason}); is the machine overloaded?") from error


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
        raise Interrupted(f"Ray did not start at {address} ({error}); see the job's log") from None
    while (found := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > end:
            ray.shutdown()
            raise Interrupted(f"Ray started on {found} of {count} nodes; see the job's log")
        time.sleep(0.5)


class RayProcesses:
    """What Ray has started here. When a needed one is gone, Ray ends us after a minute."""

    _NEEDED = ("gcs_server", "raylet")

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        """Find those that are needed among the given ones."""
        self._all = processes
        self._needed = {p.name(): p for p in processes if p.name().startswith(self._NEEDED)}

    def check(self) -> None:
        """End all of them when one that is needed has ended.

        Raises:
            Interrupted: names it.
        """
        for name, process in self._needed.items():
            if _is_alive(process):
                continue
            for other in self._all:
                _kill(other)
            raise Interrupted(
                f"Ray's {name} was killed or has crashed; run it again to go on from the last "
                "checkpoint"
            )

    def shutdown(self) -> None:
        """Shut Ray down, or leave the cluster; wait until what was started here is gone.

        Its workers notice some seconds later, and what is run next may need their memory.
        """
        import ray

        all_ = [*self._all]
        for process in self._all:
            with suppress(psutil.NoSuchProcess):
                all_ += process.children(recursive=True)
        ray.shutdown()
        end = time.monotonic() + _END_SECONDS
        while any(map(_is_alive, all_)) and time.monotonic() < end:
            time.sleep(0.1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        for child in [*process.children(recursive=True), process]:
            child.kill()
    except psutil.NoSuchProcess:
        return
