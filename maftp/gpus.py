"""Which GPUs of a machine a process takes: a lock file each, released when it ends or dies.

Jobs of one machine know nothing of each other, and every one of them would take the first GPU.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from maftp.errors import MaftpError

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
# Not $TMPDIR, which differs between jobs.
_LOCKS = Path(f"/tmp/maftp-gpus-{os.getuid()}")  # noqa: S108
_PAUSE = 0.5


def ask_driver(*fields: str) -> list[list[str]]:
    """Return what the driver's own tool says of each GPU; empty where there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == len(fields) and all(row)]


def visible_gpus() -> dict[str, str]:
    """Return the GPUs that this process may use: what names them in `VISIBLE`, and their UUIDs.

    Empty where the driver knows none. A job of a cluster sees its own ones only, counted from 0 in
    every job; their UUIDs tell them apart.
    """
    known = {index: uuid for index, uuid in ask_driver("index", "uuid")}
    if not known:
        return {}
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return known
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return {name: known.get(name, name) for name in names}


@contextmanager
def leased(count: int, gpus: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """Hold GPUs that no other process holds, and show PyTorch and Ray these alone.

    To be entered before either asks for GPUs. Waits until enough are free. Without any GPU on the
    machine, or when none is wanted, nothing is changed.

    Args:
        count: GPUs wanted.
        gpus: what there is; None asks the driver.

    Yields:
        The names of the GPUs, as in `VISIBLE`.

    Raises:
        MaftpError: the machine has fewer.
    """
    known = (visible_gpus() if gpus is None else gpus) if count else {}
    if not known:
        yield []
        return
    if len(known) < count:
        raise MaftpError(
            f"{count} GPUs are asked for and {len(known)} are here; lower execution.workers or "
            "execution.gpus_per_worker"
        )
    with ExitStack() as held:
        names = _take(count, known, held)
        os.environ[VISIBLE] = ",".join(names)
        os.environ.setdefault(_ORDER, "PCI_BUS_ID")  # the driver's order
        yield names


def _take(count: int, gpus: Mapping[str, str], held: ExitStack) -> list[str]:
    """Lock `count` GPUs; all of them or none, so that two processes never wait for each other."""
    _LOCKS.mkdir(mode=0o700, exist_ok=True)
    said = False
    while True:
        with ExitStack() as attempt:
            names: list[str] = []
            for name, uuid in gpus.items():
                if len(names) < count and _lock(uuid, attempt):
                    names.append(name)
            if len(names) == count:
                kept = attempt.pop_all()
                held.callback(kept.close)
                return names
        if not said:
            logger.info("waiting for %d of %d GPUs, which other processes use", count, len(gpus))
            said = True
        time.sleep(_PAUSE)


def _lock(uuid: str, held: ExitStack) -> bool:
    file = held.enter_context(open(_LOCKS / f"{uuid.replace('/', '_')}.lock", "a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
