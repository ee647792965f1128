"""Ray over the nodes of a Slurm allocation.

`srun` runs this module once per node, which runs Ray there. Their standard input is a pipe from
here: when this process ends, however it ends, they see the end of it and take Ray down.

Slurm sends a signal of preemption to the steps of a job, not to what a step has started, so the
nodes tell it back. It must not end Ray before the workers have written a checkpoint: Ray's
processes are started with SIGTERM blocked, and this module only says that it came.

`ray symmetric-run` does much the same, but ends with `ray stop`, which would end the Ray of other
jobs of the user on a shared node too, and it passes no signal on.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from maftp.errors import TrainingError

logger = logging.getLogger(__name__)

SIGNALLED = "signalled"
"""What a node says when Slurm wants its job to end."""

_KEPT = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_WORKING_CLUSTER")
"""All else that Slurm has set describes the step this process is in, not the one to be started."""


@dataclass(frozen=True)
class Allocation:
    """The nodes of the job this process is in."""

    job: str
    nodes: tuple[str, ...]

    @property
    def head(self) -> str:
        """Where this process is, and Ray's head will be."""
        here = os.environ.get("SLURMD_NODENAME", "")
        return here if here in self.nodes else self.nodes[0]


@dataclass(frozen=True)
class NodeResources:
    """What Ray may use of each node."""

    cpus: int
    gpus: int


def slurm_allocation(environment: Mapping[str, str]) -> Allocation | None:
    """Return the Slurm job this process is part of; None outside of one.

    Raises:
        TrainingError: Slurm does not say which nodes the job has.
    """
    job = environment.get("SLURM_JOB_ID")
    if job is None or shutil.which("srun") is None:
        return None
    # The environment of a step may name the step's nodes only.
    found = re.search(r"^ *NodeList=(\S+)", _ask("scontrol", "show", "job", job), re.MULTILINE)
    if found is None:
        raise TrainingError(f"Slurm names no nodes of job {job}; use sbatch or salloc")
    return Allocation(job=job, nodes=tuple(_ask("scontrol", "show", "hostnames", found[1]).split()))


@contextmanager
def ray_over(
    allocation: Allocation, resources: NodeResources, *, signalled: Callable[[], None]
) -> Iterator[str]:
    """Run Ray on all nodes of the allocation; yield its address once the nodes have been asked.

    Args:
        allocation: the nodes.
        resources: what Ray may use of each.
        signalled: called, in a thread, when Slurm wants the job to end.
    """
    address = f"{_address_of(allocation.head)}:{_free_port()}"
    command = _command(allocation, resources, address)
    logger.info("starting Ray on %s", ", ".join(allocation.nodes))
    # --fork: with some of Slurm's plugins a signal to this step reaches all children of its
    # processes, and `srun` would end the nodes at once.
    nodes = subprocess.Popen(
        [shutil.which("setsid") or "setsid", "--fork", *command],
        env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    listener = threading.Thread(target=_listen, args=(nodes.stdout, signalled), daemon=True)
    listener.start()
    try:
        yield address
    finally:
        nodes.stdin.close()
        nodes.wait()
        listener.join(60)  # until all nodes have taken Ray down


def _command(allocation: Allocation, resources: NodeResources, address: str) -> list[str]:
    count = len(allocation.nodes)
    return [
        "srun", "--overlap", f"--jobid={allocation.job}", f"--nodes={count}", f"--ntasks={count}",
        "--ntasks-per-node=1", "--mem=0", "--unbuffered", "--kill-on-bad-exit=0",
        "--input=all", sys.executable, "-m", "maftp.training.slurm",
        "--head", allocation.head, "--address", address,
        "--cpus", str(resources.cpus), "--gpus", str(resources.gpus),
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    slurm = {name for name in os.environ if name.startswith(("SLURM", "SRUN", "SBATCH"))}
    return {name: value for name, value in os.environ.items() if name not in slurm - set(_KEPT)}


def _listen(said: IO[str], signalled: Callable[[], None]) -> None:
    for line in said:
        if line.strip() == SIGNALLED:
            signalled()
        elif line.strip():
            logger.debug("%s", line.rstrip())


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise TrainingError(f"{' '.join(command)} failed: {str(reason).strip()}") from error
    return done.stdout


def _address_of(node: str) -> str:
    """Return the IP address under which Slurm itself reaches a node."""
    found = re.search(r"\bNodeAddr=(\S+)", _ask("scontrol", "show", "node", node))
    name = found[1] if found else node
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise TrainingError(f"node {node}: no address of {name} is known ({error})") from error


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def main(arguments: list[str] | None = None) -> int:
    """Run Ray here; return its exit code, or 0 when it was taken down because input ended."""
    options = _parser().parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # Ray's processes inherit this
    ray = subprocess.Popen(
        _ray_command(options), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    signal.signal(signal.SIGTERM, lambda number, frame: print(SIGNALLED, flush=True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        while ray.poll() is None and not _input_ended():
            continue
        return ray.returncode or 0
    finally:
        ray.kill()  # the kernel ends what it has started with it
        ray.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m maftp.training.slurm")
    parser.add_argument("--head", required=True, help="name of the node Ray's head runs on")
    parser.add_argument("--address", required=True, help="IP address and port of the head")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    return parser


def _ray_command(options: argparse.Namespace) -> list[str]:
    host, port = options.address.rsplit(":", 1)
    if os.environ.get("SLURMD_NODENAME") == options.head:
        role = ["--head", f"--port={port}", f"--node-ip-address={host}"]
        role += ["--include-dashboard=false"]
    else:
        role = [f"--address={options.address}"]
        if host == "127.0.0.1":  # all nodes are virtual ones of this machine
            role.append(f"--node-ip-address={host}")
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role,
        f"--num-cpus={options.cpus}", f"--num-gpus={options.gpus}",
        "--object-store-memory=80000000", "--disable-usage-stats",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip


def _input_ended() -> bool:
    """Wait up to half a second for standard input; True when it has ended."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.5)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1024)


if __name__ == "__main__":
    sys.exit(main())
