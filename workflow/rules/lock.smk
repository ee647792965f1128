# A lock that a killed Snakemake left behind is released, so that the same command goes on. No rules.
import json
import os
import platform
import shutil
from pathlib import Path

import psutil

LOCKS = Path(".snakemake/locks")
OWNER = Path(".snakemake/owner.json")


def note_owner():
    """Note which process holds the lock of this folder."""
    process = psutil.Process()
    owner = {
        "host": platform.node(),
        "pid": process.pid,
        "began": process.create_time(),
    }
    OWNER.write_text(json.dumps(owner))


def release_dead_lock():
    """Remove the lock if the process that noted itself as its owner has died on this machine.

    A lock that is newer than the note is someone else's, who is about to note himself.
    """
    try:
        locks = [lock.stat().st_mtime for lock in LOCKS.iterdir()]
        owner = json.loads(OWNER.read_text())
        noted_later = bool(locks) and OWNER.stat().st_mtime >= max(locks)
        if noted_later and owner["host"] == platform.node() and not is_alive(owner):
            shutil.rmtree(LOCKS)
            logger.info(
                f"Released the lock of process {owner['pid']}, which was killed; going on"
            )
    except (OSError, ValueError, KeyError):
        return


def is_alive(owner):
    """Tell whether the process lives; another may have its number by now."""
    try:
        return psutil.Process(owner["pid"]).create_time() == owner["began"]
    except psutil.NoSuchProcess:
        return False
