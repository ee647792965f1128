"""One process at a time: a lock file that the system releases when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Of file systems that know none."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, made when missing; waits while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            _wait_for(file, path)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.debug("%s: no locks on this file system", path)
        _note_owner(file, path)
        yield


def _note_owner(file: IO[str], path: Path) -> None:
    """Write down who holds the lock; it holds on a full disk as well."""
    try:
        file.truncate(0)
        os.write(file.fileno(), f"{os.getpid()} on {platform.node()}".encode())
    except OSError:
        logger.debug("%s: its holder is not noted", path, exc_info=True)


def _wait_for(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        logger.info("waiting for process %s, which holds %s", file.read() or "unknown", path)
        fcntl.flock(file, fcntl.LOCK_EX)
