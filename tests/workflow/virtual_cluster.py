"""Slurm on this machine alone: two virtual nodes, without accounting, gone with the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PATIENCE = 600.0

CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {size}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {size}
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class VirtualCluster:
    """A running Slurm."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need in their environment."""
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    def run(self, *command: str) -> str:
        """Return what one of Slurm's commands prints."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def why_not() -> str | None:
    """Return why Slurm cannot be started here, or None."""
    missing = [program for program in PROGRAMS if _find(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "only root can start Slurm's daemons"


@contextmanager
def virtual_cluster(
    *, cpus: int = 2, memory_mb: int = 16000, gpus: int = 0
) -> Iterator[VirtualCluster]:
    """Start munged, slurmctld and two slurmd; end all of them on leaving.

    Slurm believes what it is told of a node, also of GPUs that do not exist.
    """
    folder = Path(tempfile.mkdtemp(prefix="maftp-slurm-"))
    folder.chmod(0o755)  # munged runs as a user of its own
    (folder / "state").mkdir()
    host = socket.gethostname().split(".")[0]
    size = f"CPUs={cpus} RealMemory={memory_mb}" + (f" Gres=gpu:{gpus}" if gpus else "")
    text = CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(3), size=size)
    (folder / "slurm.conf").write_text(text)
    if gpus:
        for number in range(gpus):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{gpus - 1}]\n")
    _wrap_srun(folder)
    cluster = VirtualCluster(folder)
    daemons = [_start_munged(folder / "munge")]
    try:
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            daemons.append(_start(folder, *command, "-D"))
        _wait_until_idle(cluster)
        yield cluster
        cluster.run("scancel", "--user", "root")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _wrap_srun(folder: Path) -> None:
    """Make an `srun` that finds its configuration; Snakemake's job steps drop $SLURM_CONF."""
    script = folder / "bin" / "srun"
    script.parent.mkdir()
    lines = ["#!/bin/sh", f'SLURM_CONF={folder}/slurm.conf exec {_find("srun")} "$@"', ""]
    script.write_text("\n".join(lines))
    script.chmod(0o755)


def _start(folder: Path, program: str, *arguments: str) -> subprocess.Popen:
    command = [_find(program), "-f", str(folder / "slurm.conf"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _start_munged(folder: Path) -> subprocess.Popen:
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    for path in (folder, folder / "key"):
        shutil.chown(path, "munge", "munge")
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    return subprocess.Popen(
        [_find("munged"), "--foreground", *options],
        user="munge", group="munge", extra_groups=[],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_idle(cluster: VirtualCluster) -> None:
    end = time.monotonic() + PATIENCE
    states = ""
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%t"],
            env=os.environ | cluster.environment, capture_output=True, text=True,
        )  # fmt: skip
        states = done.stdout + done.stderr
        if done.stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.3)
    logs = "\n".join(log.read_text() for log in cluster.folder.glob("*.log"))
    raise AssertionError(f"Slurm did not start in {PATIENCE} s: {states}\n{logs}")
