"""The Ray that trainings run in: a cluster to join, the nodes of a Slurm job, or this machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psutil
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from maftp.errors import Interrupted
from maftp.training.allocation import Allocation, NodeResources, ray_over
from maftp.training.interruption import StopNote

if TYPE_CHECKING:
    from maftp.config import Params

_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's smallest is 75 MiB; nothing large goes through it
_STARTS = 3
_NODES_SECONDS = 300.0
"""Longest wait for the nodes of an allocation."""


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
