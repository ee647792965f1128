"""What Ray reads from the environment when it is imported or started."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile

from maftp.errors import TrainingError

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
